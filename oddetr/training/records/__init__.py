"""What a run tells: events, progress, loggers."""
