"""Seeds: one number for every purpose of a trial, the same on every worker and in every order."""

from __future__ import annotations

import hashlib

import torch


def seed_for(seed: int, purpose: str) -> int:
    """A 63-bit seed from the trial's seed and a purpose such as ``init`` or ``baseline``.

    It leaves the method out on purpose: trials of one seed start from the same draws, so their differences are paired.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """A generator on the CPU: the same order of images whatever the device."""
    return torch.Generator().manual_seed(seed_for(seed, purpose))


def reset_process(seed: int, threads: int) -> None:
    """Leave nothing of the last trial in a warm worker: random state, threads, modes, memory."""
    torch.manual_seed(seed_for(seed, "process"))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        torch.cuda.empty_cache()
