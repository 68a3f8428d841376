"""Runs that stop, break and go on."""
