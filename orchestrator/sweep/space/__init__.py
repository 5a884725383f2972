"""From a search space to trial specs: arms, points, resolution."""
