"""Outputs of shared stages: content-addressed folders of tensors and facts, written once, without pickle."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.spec.result import EpochRow
from orchestrator.storage.workspace import Remote, Workspace
from orchestrator.training.checkpoint import Checkpoint
from orchestrator.training.loop import Diverged
from orchestrator.trial.provenance import commit, versions


@dataclass(frozen=True)
class StageOutput:
    """What a stage hands on. ``tensors`` are on the CPU; ``facts`` are plain JSON."""

    tensors: dict[str, Tensor]
    epochs: list[EpochRow]
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)


def once(
    workspace: Workspace, name: str, key: str, compute: Callable[[Checkpoint], StageOutput]
) -> tuple[StageOutput, bool]:
    """The output of a stage, and whether it was there already; computed by one process, once.

    A damaged entry (its checksum does not hold) is computed again. ``compute`` is given a checkpoint for its training,
    beside the folder of the output (``.<key>-checkpoint``), which is removed with the stage's end. Of a store in a
    bucket, what lies in the mirror is taken first, then what lies in the bucket.
    """
    folder, remote = workspace.stage_folder(name, key), workspace.remote
    found = read(folder)
    if found is not None:
        return found, True
    with ExitStack() as locks:
        locks.enter_context(_locked(folder))
        found = read(folder) or _taken(folder, remote)
        if found is None and remote is not None:
            locks.enter_context(remote.alone(folder))
            # Another machine may have been at it until now.
            found = _taken(folder, remote)
        if found is not None:
            return found, True
        with training_checkpoint(folder.with_name(f".{folder.name}-checkpoint"), remote) as checkpoint:
            output = compute(checkpoint)
            _write(folder, output, remote)
    return output, False


@contextmanager
def training_checkpoint(folder: Path, remote: Remote | None = None) -> Iterator[Checkpoint]:
    """A checkpoint that goes when its training's result is safe; where something breaks, it stays for the next try.

    A training that diverged would only do so again.
    """
    checkpoint = Checkpoint(folder, {"commit": commit(), "versions": versions()}, remote)
    try:
        yield checkpoint
    except Diverged:
        checkpoint.remove()
        raise
    checkpoint.remove()


def read(folder: Path) -> StageOutput | None:
    """A stage's output, or None where it is missing or damaged."""
    try:
        facts = json.loads((folder / "stage.json").read_text())
        if facts["sha256"] != _checksum(folder / "tensors.safetensors"):
            return None
        tensors = load_file(folder / "tensors.safetensors")
        epochs = [EpochRow.model_validate(row) for row in facts["epochs"]]
        return StageOutput(tensors, epochs, facts["seconds"], facts["facts"])
    except (OSError, KeyError, ValueError):
        return None


def _taken(folder: Path, remote: Remote | None) -> StageOutput | None:
    return read(folder) if remote is not None and remote.take(folder) else None


def _write(folder: Path, output: StageOutput, remote: Remote | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    draft.mkdir()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in output.tensors.items()}
    save_file(tensors, draft / "tensors.safetensors")
    facts = {
        "sha256": _checksum(draft / "tensors.safetensors"),
        "epochs": [row.model_dump() for row in output.epochs],
        "seconds": output.seconds,
        "facts": output.facts,
    }
    (draft / "stage.json").write_text(json.dumps(facts))
    if remote is not None:
        # By `stage.json`, which goes last, the output is known to be there.
        for name in ("tensors.safetensors", "stage.json"):
            remote.put(folder / name, draft / name)
    if folder.exists():
        shutil.rmtree(folder)
    os.rename(draft, folder)


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock falls with the process that holds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def state_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """A network's state as plain tensors on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
