"""Methods that learn what to remove in a training with the network."""
