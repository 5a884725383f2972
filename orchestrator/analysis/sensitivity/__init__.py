"""Estimate which parameters matter: importances over any trials, Sobol and Morris indices over designed ones."""
