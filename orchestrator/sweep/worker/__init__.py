"""What a worker does with a job, and the runner that works in this process; no Ray."""
