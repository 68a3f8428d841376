"""The matcher and the losses."""
