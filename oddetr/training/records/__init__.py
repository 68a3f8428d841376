"""Record a run: events, checkpoints, progress, loggers."""
