"""Train several arms with several seeds on equal terms, and tabulate and plot them."""
