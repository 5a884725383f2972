"""Status, garbage collection, and views rebuilt from the records."""
