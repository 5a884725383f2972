"""Which channels belong together, how many must go, and the cut itself."""
