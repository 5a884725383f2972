"""The driver without Ray: messages, jobs, the dispatcher, allocation, suggestions, display."""
