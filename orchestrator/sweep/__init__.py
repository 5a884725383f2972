"""Many trials: planning, jobs, Ray Tune, measuring, progress."""
