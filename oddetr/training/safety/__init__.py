"""Resume, stop and repair runs."""
