"""Methods that train what to remove together with the network."""
