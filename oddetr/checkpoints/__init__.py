"""Checkpoints: ours, other people's, and the Hub."""
