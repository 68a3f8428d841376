"""What every room uses: crash-safe files, files from strangers, options, nested dicts, text and the terminal."""
