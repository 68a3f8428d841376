"""Decide and report before the first step."""
