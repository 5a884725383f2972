"""Searches that learn from recorded trials: Optuna, asked and told."""
