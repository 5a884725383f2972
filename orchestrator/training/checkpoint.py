"""Checkpoints: a training's state on disk, written now and then, so that a killed training continues from it."""

from __future__ import annotations

import json
import secrets
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.storage.atomic import replacing
from orchestrator.storage.bucket import Bucket
from orchestrator.storage.checksums import sha256_of

SECONDS = 30.0
"""Seconds between two checkpoints of a training; a training that ends sooner never writes any."""
UPLOAD_SECONDS = 120.0
"""Seconds between two uploads to a bucket: what a lost machine costs. On one machine the folder's own is newer."""
_SHARE = 0.02
_INDEX = "checkpoint.json"


class Checkpoint:
    """The folder where one training saves its state: tensors without pickle, and an index in JSON.

    Args:
        folder: a folder of this training's own; created by the first write.
        identity: plain JSON that distinguishes this training; a state written under another identity is not read.
        bucket: where a copy is uploaded now and then, so that another machine can continue when this one is lost.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], bucket: Bucket | None = None) -> None:
        self._folder = folder
        self._identity = dict(identity)
        self._bucket = bucket
        self._next_write = time.monotonic() + SECONDS
        self._next_upload = time.monotonic() + UPLOAD_SECONDS
        self._uploaded: Path | None = None

    def narrowed(self, **identity: Any) -> Checkpoint:
        """Return a checkpoint of the same folder for a training whose identity has more entries."""
        return Checkpoint(self._folder, {**self._identity, **identity}, self._bucket)

    @property
    def due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() >= self._next_write

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Save a state in place of the one before; ``facts`` are plain JSON.

        Whenever the process is killed, the index names tensors that exist. A failure to write is only a warning: the
        training itself needs no checkpoint.
        """
        started = time.monotonic()
        try:
            path = self._write(tensors, facts)
            # Less often for large networks and slow disks: writing takes at most a fiftieth of the time.
            self._next_write = _due_after(started, SECONDS)
            if self._bucket is not None and time.monotonic() >= self._next_upload:
                started = time.monotonic()
                self._upload(path, self._bucket)
                self._next_upload = _due_after(started, UPLOAD_SECONDS)
        except (OSError, SafetensorError) as error:
            warnings.warn(f"{self._folder}: no checkpoint was written: {error}", stacklevel=2)
            self._next_write = _due_after(started, SECONDS)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors as they were, on their devices and in their layouts, and the facts.

        None where there is no state, or one that is damaged or of another training.
        """
        if self._bucket is not None:
            index = self._bucket.read(self._folder / _INDEX)
            if self._time_of(index) > self._time_of(self._index()):
                self._bucket.download_folder(self._folder)
        try:
            index = json.loads(self._index())
            if index["identity"] != self._identity:
                return None
            path = self._folder / index["tensors"]
            if index["sha256"] != sha256_of(path):
                return None
            loaded = load_file(path)
            tensors = {name: _with_layout(loaded[name], *index["layout"][name]) for name in loaded}
            return tensors, index["facts"]
        except (OSError, KeyError, TypeError, ValueError, SafetensorError):
            return None

    def remove(self) -> None:
        """Remove the state, here and in the bucket."""
        if self._bucket is not None:
            self._bucket.delete_folder(self._folder)
        remove(self._folder)

    def _index(self) -> bytes:
        try:
            return (self._folder / _INDEX).read_bytes()
        except OSError:
            return b""

    def _time_of(self, index: bytes | None) -> float:
        """Return when a state was written, by its writer's clock; 0 for another training's or a damaged one."""
        try:
            entries = json.loads(index or b"")
            return float(entries["written"]) if entries["identity"] == self._identity else 0.0
        except (KeyError, TypeError, ValueError):
            return 0.0

    def _upload(self, path: Path, bucket: Bucket) -> None:
        bucket.upload(path)
        bucket.upload(self._folder / _INDEX)
        if self._uploaded is not None:
            bucket.delete(self._uploaded)
        self._uploaded = path

    def _write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{secrets.token_hex(4)}.safetensors"
        # A copy of each by itself: networks may share tensors, which the format refuses.
        save_file(
            {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}, path
        )
        index = {
            "identity": self._identity,
            "written": time.time(),
            "tensors": path.name,
            "sha256": sha256_of(path),
            "layout": {name: (list(tensor.stride()), tensor.device.type) for name, tensor in tensors.items()},
            "facts": dict(facts),
        }
        with replacing(self._folder / _INDEX) as temporary:
            temporary.write_text(json.dumps(index), encoding="utf-8")
        for other in self._folder.iterdir():
            if other.name not in (_INDEX, path.name):
                other.unlink(missing_ok=True)
        return path


def remove(folder: Path) -> None:
    """Remove a checkpoint's folder, if it exists."""
    shutil.rmtree(folder, ignore_errors=True)


def _due_after(started: float, seconds: float) -> float:
    now = time.monotonic()
    return now + max(seconds, (now - started) / _SHARE)


def _with_layout(tensor: Tensor, stride: list[int], device: str) -> Tensor:
    # Sums over another memory layout may be taken in another order, or with other instructions.
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=device).copy_(tensor)
