"""Matching costs, assignments, and the losses under them."""
