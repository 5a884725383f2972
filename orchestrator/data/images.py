"""Open an image set by name: decode it, split it and move it to the device."""

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
from orchestrator.data.batching import ImageData, Split, batches, calibration_batches, hold_out
from orchestrator.data.cache import Decoded, open_cached
from orchestrator.data.fingerprint import identity
from orchestrator.data.source import Source
from orchestrator.data.split import stratified_split

# A warm worker runs many trials on one data set; only the last set is kept, to hold the memory of one.
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
    """Return the image set ``name`` with ``params``: decoded (once per machine), split and moved to ``device``.

    Decoded images are cached in ``folder``: by default ``$PRUNESWEEP_DATA_CACHE``, else ``~/.cache/prunesweep/data``.
    Sets of more than ``memory_limit`` bytes are streamed from there. A stratified ``val_share`` of the training images,
    the same every time, becomes the validation split. Raises `DataError` for files that cannot be used.
    """
    global _last
    folder = folder or Path(os.environ.get("PRUNESWEEP_DATA_CACHE") or "~/.cache/prunesweep/data")
    folder = folder.expanduser()
    key = cache_key(name, params)
    opened_as = (key, str(device), folder, memory_limit, val_share)
    if _last is not None and _last[0] == opened_as:
        return _last[1]
    _last = None  # free the old set before the new one is loaded
    source: Source = DATA.load(name)(**params)
    data = _split(source, open_cached(source, key, folder), device, memory_limit, val_share)
    _last = (opened_as, data)
    return data


def cache_key(name: str, params: Mapping[str, object]) -> str:
    """Return the key of the folder of decoded images: a hash of the images' identity.

    For a published set, identified by its name, the path counts too: copies at two paths may differ.
    """
    values = identity(name, params)
    if "path" in params and "fingerprint" not in values:
        values["path"] = str(Path(str(params["path"])).expanduser().resolve())
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def _split(source: Source, decoded: Decoded, device: torch.device, memory_limit: int, val_share: float) -> ImageData:
    train, val = stratified_split(decoded.train_labels, val_share)
    streamed = decoded.train_images.nbytes + decoded.test_images.nbytes > memory_limit
    make_split = _streamed_split if streamed else _loaded_split
    return ImageData(
        train=make_split(decoded.train_images, decoded.train_labels, train, device),
        val=make_split(decoded.train_images, decoded.train_labels, val, device),
        test=make_split(decoded.test_images, decoded.test_labels, np.arange(len(decoded.test_labels)), device),
        channels=source.channels,
        size=source.size,
        classes=source.classes,
        mean=decoded.mean,
        std=decoded.std,
        augment=source.augment,
    )


def _loaded_split(
    images: NDArray[np.uint8], labels: NDArray[np.int64], rows: NDArray[np.int64], device: torch.device
) -> Split:
    selected = torch.from_numpy(images[rows]).to(device)
    return Split(selected.permute(0, 3, 1, 2), torch.from_numpy(labels[rows]).to(device))


def _streamed_split(
    images: NDArray[np.uint8], labels: NDArray[np.int64], rows: NDArray[np.int64], device: torch.device
) -> Split:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # a split's images are read-only
        mapped = torch.from_numpy(images)
    return Split(mapped.permute(0, 3, 1, 2), torch.from_numpy(labels[rows]).to(device), torch.from_numpy(rows))


__all__ = ["ImageData", "Split", "batches", "cache_key", "calibration_batches", "hold_out", "open_data"]
