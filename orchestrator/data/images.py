"""Opening an image set by name: decoded, split and on the device."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.data import DATA
from orchestrator.data.batching import ImageData, Split, batches, calibration, divided
from orchestrator.data.cache import Decoded, cached
from orchestrator.data.fingerprint import identity
from orchestrator.data.source import Source
from orchestrator.data.split import stratified

# A warm worker runs trial after trial on one data set; a second set in here would hold a second set's memory.
_last: tuple[tuple[object, ...], ImageData] | None = None


def open_data(
    name: str,
    params: Mapping[str, object],
    *,
    device: torch.device,
    folder: Path | None = None,
    memory_limit: int = 8 << 30,
    val_share: float = 0.1,
) -> ImageData:
    """The image set ``name`` with ``params``: decoded (once per machine), split and moved to ``device``.

    The decoded images lie under ``folder``: by default ``$PRUNESWEEP_DATA_CACHE``, else ``~/.cache/prunesweep/data``.
    Sets of more than ``memory_limit`` bytes stay there and are streamed. ``val_share`` of the training images, of every
    class, become the validation split: the same ones each time. Raises `DataError` for files that cannot be used.
    """
    global _last
    folder = folder or Path(os.environ.get("PRUNESWEEP_DATA_CACHE") or "~/.cache/prunesweep/data")
    folder = folder.expanduser()
    key = cache_key(name, params)
    opened_as = (key, str(device), folder, memory_limit, val_share)
    if _last is not None and _last[0] == opened_as:
        return _last[1]
    _last = None  # let go of the old set before the new one is loaded
    source: Source = DATA.load(name)(**params)
    data = _placed(source, cached(source, key, folder), device, memory_limit, val_share)
    _last = (opened_as, data)
    return data


def cache_key(name: str, params: Mapping[str, object]) -> str:
    """The decoded folder's key: the identity of the images; for a published set also where its files lie.

    A published set's identity is its name; should the copy in one place be another, it must not be served for all.
    """
    found = identity(name, params)
    if "path" in params and "fingerprint" not in found:
        found["path"] = str(Path(str(params["path"])).expanduser().resolve())
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:32]


def _placed(source: Source, decoded: Decoded, device: torch.device, memory_limit: int, val_share: float) -> ImageData:
    train, val = stratified(decoded.train_labels, val_share)
    streamed = decoded.train_images.nbytes + decoded.test_images.nbytes > memory_limit
    place = _streamed if streamed else _loaded
    return ImageData(
        train=place(decoded.train_images, decoded.train_labels, train, device),
        val=place(decoded.train_images, decoded.train_labels, val, device),
        test=place(decoded.test_images, decoded.test_labels, np.arange(len(decoded.test_labels)), device),
        channels=source.channels,
        size=source.size,
        classes=source.classes,
        mean=decoded.mean,
        std=decoded.std,
        augment=source.augment,
    )


def _loaded(
    images: NDArray[np.uint8], labels: NDArray[np.int64], rows: NDArray[np.int64], device: torch.device
) -> Split:
    chosen = torch.from_numpy(images[rows]).to(device)
    return Split(chosen.permute(0, 3, 1, 2), torch.from_numpy(labels[rows]).to(device))


def _streamed(
    images: NDArray[np.uint8], labels: NDArray[np.int64], rows: NDArray[np.int64], device: torch.device
) -> Split:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # nothing writes to a split's images
        mapped = torch.from_numpy(images)
    return Split(mapped.permute(0, 3, 1, 2), torch.from_numpy(labels[rows]).to(device), torch.from_numpy(rows))


__all__ = ["ImageData", "Split", "batches", "cache_key", "calibration", "divided", "open_data"]
