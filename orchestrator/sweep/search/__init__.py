"""Searches: how points are taken from a search space."""
