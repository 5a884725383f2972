"""The bound that PFP prunes by: from sensitivities to errors, from errors to samples and channels that stay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MOST_SAMPLES = 2**60


def errors_kept_to(sensitivity: NDArray[np.float64], patches: int, kernel: int, delta: float) -> NDArray[np.float64]:
    """Return the smallest eps at which each channel is removed; infinite for the channel of largest s.

    sensitivity: (channels,); patches: positions of the layer's output; kernel: its weights per channel and filter.
    """
    total = sensitivity.sum()
    errors = np.zeros(len(sensitivity))
    if total == 0:
        return errors
    bound = error_constant(float(total), patches, kernel, delta)
    order = descending(sensitivity)
    for rank, needed in enumerate(samples_for_more_than(sensitivity / total)):
        if needed <= 1:
            errors[order[rank]] = math.inf
        elif needed < _MOST_SAMPLES:
            # samples(eps) <= needed - 1, solved for the smallest eps
            spare = needed - 1
            errors[order[rank]] = (3 * bound + math.sqrt(9 * bound**2 + 18 * bound * spare)) / spare
    return errors


def descending(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return indices in descending order; of equals the last first, since the first is removed first."""
    return np.argsort(values, kind="stable")[::-1]


def error_constant(total: float, patches: int, kernel: int, delta: float) -> float:
    """Return A of the paper."""
    return 6 * total * math.log(8 * (patches + 1) * kernel / delta)


def samples(error: float, bound: float) -> int:
    """Return m, the samples that an error needs."""
    return math.ceil(3 * (6 + 2 * error) * bound / error**2)


def expected_distinct(shares: NDArray[np.float64], samples: float) -> float:
    """Return the expected number of distinct channels among draws with the given probabilities."""
    with np.errstate(divide="ignore"):  # a share of 1: log 0, and the channel is drawn for sure
        return float(-np.expm1(samples * np.log1p(-shares)).sum())


def samples_for_more_than(shares: NDArray[np.float64]) -> list[int]:
    """Return for n = 0, 1, ... the fewest samples for which more than n distinct channels are expected."""
    needed = []
    least = 1
    for n in range(len(shares)):
        low, high = least, least
        while high < _MOST_SAMPLES and expected_distinct(shares, high) <= n + 1e-9:
            low, high = high + 1, high * 2
        high = min(high, _MOST_SAMPLES)
        while low < high:
            middle = (low + high) // 2
            if expected_distinct(shares, middle) > n + 1e-9:
                high = middle
            else:
                low = middle + 1
        needed.append(low)
        least = low
    return needed


def sample_size(activations: Sequence[int], delta: float) -> int:
    """Return |S| = ceil(3 ln(8 eta_max eta / delta)) images. ``activations``: outputs of each layer for one image."""
    return math.ceil(3 * math.log(8 * max(activations, default=1) * max(sum(activations), 1) / delta))
