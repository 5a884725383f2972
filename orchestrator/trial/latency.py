"""Measure the latency of a finished trial's network and of the dense network on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from orchestrator.metrics.latency import measure
from orchestrator.models.build import build as build_model
from orchestrator.storage.sweep_paths import TrialPaths
from orchestrator.surgery.serialization import rebuild
from orchestrator.training.rng import reset_process

BATCH_SIZE = 1


def measure_saved(folder: Path, device: str, threads: int) -> dict[str, float]:
    """Measure the network saved in a trial's folder and the dense network, interleaved; return the latency metrics.

    Latencies are in milliseconds for one image. Setting single weights to zero saves no computation: the latency of
    such a network is the dense one's, and no speed-up is claimed.
    """
    reset_process(0, threads)
    facts = json.loads(TrialPaths(folder).cut.read_text())
    shape, choice = facts["shape"], facts["model"]
    example = torch.zeros(BATCH_SIZE, shape["channels"], shape["size"], shape["size"])
    build = {"classes": shape["classes"], "channels": shape["channels"], "size": shape["size"]}
    networks = {"dense": build_model(choice["name"], choice["params"], **build)}
    if facts["kept"] is not None:
        networks["pruned"] = rebuild(build_model(choice["name"], choice["params"], **build), example, folder)
    timings = measure({name: network.to(device) for name, network in networks.items()}, example.to(device))
    dense, pruned = timings["dense"], timings.get("pruned", timings["dense"])
    return {
        "latency_ms": pruned.median,
        "latency_ms_std": pruned.std,
        "dense_latency_ms": dense.median,
        "dense_latency_ms_std": dense.std,
        "latency_speedup": dense.median / pruned.median,
    }
