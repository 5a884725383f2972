"""Records read back: means, differences, fronts, sensitivities, and printed tables beside them."""
