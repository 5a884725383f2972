"""Methods that remove and restore while the network trains."""
