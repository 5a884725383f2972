"""Outputs of shared stages: content-addressed folders of tensors and facts, written once, without pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.spec.failures import Diverged
from orchestrator.spec.result import EpochRow
from orchestrator.storage.atomic import replacing_folder
from orchestrator.storage.bucket import Bucket
from orchestrator.storage.checksums import sha256_of
from orchestrator.storage.lease import acquire_lease
from orchestrator.storage.locks import acquire_lock
from orchestrator.storage.workspace import Workspace
from orchestrator.training.checkpoint import Checkpoint
from orchestrator.trial.provenance import commit, versions

_FACTS = "stage.json"
_TENSORS = "tensors.safetensors"


@dataclass(frozen=True)
class StageOutput:
    """What a stage hands on."""

    tensors: dict[str, Tensor]
    """On the CPU."""
    epochs: list[EpochRow]
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)
    """Plain JSON."""


def once(
    workspace: Workspace, name: str, key: str, compute: Callable[[Checkpoint], StageOutput]
) -> tuple[StageOutput, bool]:
    """Return the output of a stage, and whether it existed already; one process of all machines computes it.

    An entry whose checksum is wrong is computed again. ``compute`` receives a checkpoint for its training, beside the
    folder of the output (``.<key>-checkpoint``), which is removed when the stage ends. Of a store in a bucket the
    mirror's output is preferred to the bucket's.
    """
    folder, bucket = workspace.stage_folder(name, key), workspace.store.bucket
    output = read(folder)
    if output is not None:
        return output, True
    with ExitStack() as locks:
        # First the lock of this machine: its workers wait for each other without asking the bucket.
        locks.enter_context(_locked(folder))
        output = read(folder) or _downloaded(folder, bucket)
        if output is None and bucket is not None:
            locks.enter_context(acquire_lease(bucket, folder))
            # Another machine may have computed it until now.
            output = _downloaded(folder, bucket)
        if output is not None:
            return output, True
        with training_checkpoint(folder.with_name(f".{folder.name}-checkpoint"), bucket) as checkpoint:
            output = compute(checkpoint)
            _write(folder, output, bucket)
    return output, False


@contextmanager
def training_checkpoint(folder: Path, bucket: Bucket | None = None) -> Iterator[Checkpoint]:
    """Yield a checkpoint that is removed when the block ends: the training's result is safe then.

    It stays for the next attempt where the block fails, unless the training diverged, which it would do again.
    """
    checkpoint = Checkpoint(folder, {"commit": commit(), "versions": versions()}, bucket)
    try:
        yield checkpoint
    except Diverged:
        checkpoint.remove()
        raise
    checkpoint.remove()


def read(folder: Path) -> StageOutput | None:
    """Return a stage's output, or None where it is missing or damaged."""
    try:
        stage = json.loads((folder / _FACTS).read_text())
        if stage["sha256"] != sha256_of(folder / _TENSORS):
            return None
        tensors = load_file(folder / _TENSORS)
        epochs = [EpochRow.model_validate(row) for row in stage["epochs"]]
        return StageOutput(tensors, epochs, stage["seconds"], stage["facts"])
    except (OSError, KeyError, ValueError):
        return None


def _downloaded(folder: Path, bucket: Bucket | None) -> StageOutput | None:
    return read(folder) if bucket is not None and bucket.download_folder(folder) else None


def _write(folder: Path, output: StageOutput, bucket: Bucket | None) -> None:
    with replacing_folder(folder) as draft:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in output.tensors.items()}
        save_file(tensors, draft / _TENSORS)
        stage = {
            "sha256": sha256_of(draft / _TENSORS),
            "epochs": [row.model_dump() for row in output.epochs],
            "seconds": output.seconds,
            "facts": output.facts,
        }
        (draft / _FACTS).write_text(json.dumps(stage))
        if bucket is not None:
            # The facts go last: where they exist, the output is complete.
            for name in (_TENSORS, _FACTS):
                bucket.upload(folder / name, draft / name)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with acquire_lock(folder.with_name(f".{folder.name}.lock")):
        yield


def state_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return a network's state as plain tensors on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
