"""One builder for each family of detectors."""
