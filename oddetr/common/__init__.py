"""What every room uses: files that survive a crash, files of strangers, options, words."""
