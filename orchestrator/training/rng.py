"""Seeds: one per purpose of a trial, the same on every worker and in every order."""

from __future__ import annotations

import hashlib

import torch


def seed_for(seed: int, purpose: str) -> int:
    """Return a 63-bit seed from the trial's seed and a purpose such as ``init`` or ``baseline``.

    The method is left out on purpose: trials with the same seed draw the same numbers, so comparisons are paired.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """Return a seeded generator on the CPU, so that the order of images is the same on every device."""
    return torch.Generator().manual_seed(seed_for(seed, purpose))


def reset_process(seed: int, threads: int) -> None:
    """Reset what a previous trial may have changed in this process: random state, threads, modes, GPU memory."""
    torch.manual_seed(seed_for(seed, "process"))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        torch.cuda.empty_cache()
