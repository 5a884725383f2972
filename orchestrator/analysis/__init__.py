"""Records read back and folded into means."""
