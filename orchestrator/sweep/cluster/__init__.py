"""All of Ray: the Tune searcher and scheduler, node checks, GPU probes, the latency wave."""
