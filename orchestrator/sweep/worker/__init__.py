"""What a worker process does with a job; imports no Ray."""
