"""Latency of one forward pass: after a warm-up, networks interleaved, median and standard deviation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_WARM_UP_ROUNDS = 5
_ROUNDS = 50
_SECONDS = 2.0
"""Time limit of one measurement, about: slow networks get fewer rounds than `_ROUNDS`."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one forward pass: median and sample standard deviation over rounds."""

    median: float
    std: float
    rounds: int


@torch.inference_mode()
def measure(networks: Mapping[str, nn.Module], example: Tensor) -> dict[str, Timing]:
    """Time networks on one input, one after another in every round, so that drift of the machine affects all equally.

    Puts the networks in evaluation mode and channels-last; nothing else may run on the device.
    """
    example = example.contiguous(memory_format=torch.channels_last) if example.dim() == 4 else example
    for network in networks.values():
        network.eval().to(memory_format=torch.channels_last)
    for _ in range(_WARM_UP_ROUNDS):
        first = [_once(network, example) for network in networks.values()]
    rounds = max(5, min(_ROUNDS, int(_SECONDS * 1000 / max(sum(first), 1e-3))))
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(rounds):
        for name, network in networks.items():
            times[name].append(_once(network, example))
    return {name: Timing(statistics.median(values), statistics.stdev(values), rounds) for name, values in times.items()}


def _once(network: nn.Module, example: Tensor) -> float:
    """Return the milliseconds of one forward pass, with the device's work."""
    if example.is_cuda:
        torch.cuda.synchronize(example.device)
    started = time.perf_counter()
    network(example)
    if example.is_cuda:
        torch.cuda.synchronize(example.device)
    return (time.perf_counter() - started) * 1000
