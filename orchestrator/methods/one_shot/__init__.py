"""Methods that decide once, looking at a trained network."""
