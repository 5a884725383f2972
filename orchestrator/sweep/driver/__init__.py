"""What the driver decides, without Ray: jobs, allocation, suggestions, display."""
