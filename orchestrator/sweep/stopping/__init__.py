"""Stoppers: which trials end early."""
