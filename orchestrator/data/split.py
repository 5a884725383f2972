"""Stratified splits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stratified_split(
    labels: NDArray[np.int64], share: float, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ascending indices (train, validation), of which ``round(share * n)`` are for validation.

    Each class contributes its share, rounded by largest remainder; a class of two images or more is in both parts, even
    where that makes the validation part larger. With ``share`` 0 the validation part is empty.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must be at least 0 and below 1, not {share!r}")
    # RandomState's stream never changes; a Generator's may change with numpy, and with it every result.
    random = np.random.RandomState(seed)
    order = random.permutation(len(labels))
    _, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if share == 0 or not len(labels):
        return np.arange(len(labels)), np.empty(0, dtype=np.int64)
    quotas = _quotas(sizes, share)
    by_class = order[np.argsort(inverse[order], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    validation = np.concatenate([by_class[s : s + q] for s, q in zip(starts, quotas, strict=True)])
    in_validation = np.zeros(len(labels), dtype=bool)
    in_validation[validation] = True
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def _quotas(sizes: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    exact = sizes * share
    least = np.where(sizes >= 2, 1, 0)
    most = np.maximum(sizes - 1, 0)
    quotas: NDArray[np.int64] = np.clip(np.floor(exact).astype(np.int64), least, most)
    total = round(float(sizes.sum()) * share)
    while quotas.sum() < total and (quotas < most).any():
        quotas[np.argmax(np.where(quotas < most, exact - quotas, -np.inf))] += 1
    while quotas.sum() > total and (quotas > least).any():
        quotas[np.argmin(np.where(quotas > least, exact - quotas, np.inf))] -= 1
    return quotas
