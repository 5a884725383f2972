"""All of Ray: the runner on Tune, node checks, GPU probes, the latency wave."""
