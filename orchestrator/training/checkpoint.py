"""Checkpoints: a training's state on disk now and then, so that one that was killed goes on and does not start over."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.storage.workspace import Remote

SECONDS = 30.0
"""Between two checkpoints of a training; one that ends sooner never writes any."""
COPY_SECONDS = 120.0
"""Between two copies to a bucket: what a lost machine takes with it. On one machine the folder's own is newer."""
_SHARE = 0.02
_INDEX = "checkpoint.json"


class Checkpoint:
    """The folder where one training leaves its state: tensors without pickle, and an index in JSON.

    Args:
        folder: of this training alone; made when it is first written to.
        identity: plain JSON that tells this training from others; what was written under another one is not read.
        remote: where a copy goes now and then, so that another machine can go on when this one is lost.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], remote: Remote | None = None) -> None:
        self._folder = folder
        self._identity = dict(identity)
        self._remote = remote
        self._next = time.monotonic() + SECONDS
        self._next_copy = time.monotonic() + COPY_SECONDS
        self._copied: Path | None = None

    def narrowed(self, **identity: Any) -> Checkpoint:
        """The same folder, for a training that is described more closely."""
        return Checkpoint(self._folder, {**self._identity, **identity}, self._remote)

    @property
    def due(self) -> bool:
        """It is time to write again."""
        return time.monotonic() >= self._next

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take the place of what was written before; ``facts`` are plain JSON.

        Whenever the process is killed, the index stands beside the tensors it names. A failure to write is a warning:
        the training itself needs no checkpoint.
        """
        started = time.monotonic()
        try:
            path = self._write(tensors, facts)
            # Of large networks, or on slow disks, they come less often: writing takes at most a fiftieth of the time.
            self._next = _later(started, SECONDS)
            if self._remote is not None and time.monotonic() >= self._next_copy:
                started = time.monotonic()
                self._copy(path, self._remote)
                self._next_copy = _later(started, COPY_SECONDS)
        except (OSError, SafetensorError) as error:
            warnings.warn(f"{self._folder}: no checkpoint was written: {error}", stacklevel=2)
            self._next = _later(started, SECONDS)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors as they were, on their devices and in their layouts, and the facts.

        None where there are none, or where they are damaged or of another training.
        """
        if self._remote is not None:
            there, here = self._written(self._remote.read(self._folder / _INDEX)), self._written(self._index())
            if there > here:
                self._remote.take(self._folder)
        try:
            index = json.loads(self._index())
            if index["identity"] != self._identity:
                return None
            path = self._folder / index["tensors"]
            if index["sha256"] != _checksum(path):
                return None
            loaded = load_file(path)
            tensors = {name: _laid_out(loaded[name], *index["layout"][name]) for name in loaded}
            return tensors, index["facts"]
        except (OSError, KeyError, TypeError, ValueError, SafetensorError):
            return None

    def remove(self) -> None:
        """Leave nothing behind."""
        if self._remote is not None:
            self._remote.clear(self._folder)
        remove(self._folder)

    def _index(self) -> bytes:
        try:
            return (self._folder / _INDEX).read_bytes()
        except OSError:
            return b""

    def _written(self, index: bytes | None) -> float:
        """When, by the clock of who wrote it; nothing where it is of another training or damaged."""
        try:
            found = json.loads(index or b"")
            return float(found["written"]) if found["identity"] == self._identity else 0.0
        except (KeyError, TypeError, ValueError):
            return 0.0

    def _copy(self, path: Path, remote: Remote) -> None:
        remote.put(path)
        remote.put(self._folder / _INDEX)
        if self._copied is not None:
            remote.remove(self._copied)
        self._copied = path

    def _write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        mark = uuid.uuid4().hex[:8]
        path = self._folder / f"{mark}.safetensors"
        # A copy of each by itself: networks may share tensors, which the format refuses.
        save_file(
            {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}, path
        )
        index = {
            "identity": self._identity,
            "written": time.time(),
            "tensors": path.name,
            "sha256": _checksum(path),
            "layout": {name: (list(tensor.stride()), tensor.device.type) for name, tensor in tensors.items()},
            "facts": dict(facts),
        }
        draft = self._folder / f"{mark}.json"
        draft.write_text(json.dumps(index), encoding="utf-8")
        os.replace(draft, self._folder / _INDEX)
        for other in self._folder.iterdir():
            if other.name not in (_INDEX, path.name):
                other.unlink(missing_ok=True)
        return path


def remove(folder: Path) -> None:
    """Remove a checkpoint's folder, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def _later(started: float, seconds: float) -> float:
    now = time.monotonic()
    return now + max(seconds, (now - started) / _SHARE)


def _laid_out(tensor: Tensor, stride: list[int], device: str) -> Tensor:
    # Sums over another memory layout may be taken in another order, or with other instructions.
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=device).copy_(tensor)


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
