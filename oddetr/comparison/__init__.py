"""Arms, trained on equal terms with several seeds, tabulated and plotted."""
