"""One trial: baseline -> method -> selection -> cut -> retrain -> measure. Values in, a `TrialResult` out."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch

from orchestrator.metrics.size import layer_table, sizes
from orchestrator.spec.result import EpochRow, Status, TrialResult
from orchestrator.spec.trial import TrialSpec
from orchestrator.spec.workspace import Workspace
from orchestrator.surgery.saved import save_pruned
from orchestrator.surgery.selecting import Selection, WeightSelection
from orchestrator.training.loop import Diverged, Report, accuracy
from orchestrator.training.rng import reset_process
from orchestrator.trial.context import Context
from orchestrator.trial.provenance import commit, device_name, versions
from orchestrator.trial.shared import Pruned, baseline, importance, prune, retrain, sparse_training, step

_STAGES = {"baseline": baseline, "sparse_training": sparse_training, "importance": importance, "step": step}


def run_trial(
    spec: TrialSpec,
    workspace: Workspace,
    report: Report | None = None,
    *,
    arm: str = "",
    point: Mapping[str, Any] | None = None,
) -> TrialResult:
    """Run one trial and return its record; what goes wrong is in the record, not raised.

    The pruned network is saved in the trial's folder, shared stages in the store's cache.
    """
    started = datetime.now(UTC)
    status: Status = "failed"
    error: str | None = None
    body: dict[str, Any] = {}
    try:
        reset_process(spec.seed, workspace.threads)
        body = _trial(Context(spec, workspace, report or _silent))
        status = "done"
    except Diverged as problem:
        status, error = "diverged", str(problem)
    except torch.cuda.OutOfMemoryError as problem:
        error = f"OutOfMemory: {str(problem).splitlines()[0]}"
    except Exception as problem:
        error = reason(problem)
    return TrialResult(
        trial_id=spec.trial_id,
        spec=spec,
        arm=arm,
        point=dict(point or {}),
        status=status,
        error=error,
        device=device_name(workspace.device),
        host=platform.node(),
        started=started.isoformat(timespec="milliseconds"),
        ended=datetime.now(UTC).isoformat(timespec="milliseconds"),
        commit=commit(),
        versions=versions(),
        **body,
    )


def run_stage(name: str, spec: TrialSpec, workspace: Workspace, report: Report | None = None) -> bool:
    """Compute a shared stage of a trial; False if it was there already. Raises what goes wrong."""
    reset_process(spec.seed, workspace.threads)
    _, reused = _STAGES[name](Context(spec, workspace, report or _silent))
    return not reused


def reason(problem: BaseException) -> str:
    """One line that says what went wrong."""
    text = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {text[0]}" if text else type(problem).__name__


def _trial(context: Context) -> dict[str, Any]:
    spec, data = context.spec, context.data
    pruned = prune(context)
    dense_accuracy = pruned.dense_facts["accuracy"]
    pruned_accuracy, _ = accuracy(pruned.network, data.test, data)
    unstructured = isinstance(pruned.selection, WeightSelection)
    size = sizes(pruned.dense, pruned.network, context.example, unstructured=unstructured)

    before = copy.deepcopy(pruned.network)
    started = time.perf_counter()
    network, rows = retrain(context, pruned, size["dense_macs"] / size["macs"])
    seconds = {**pruned.seconds, "retrain": time.perf_counter() - started}
    top1, top5 = accuracy(network, data.test, data)
    val_accuracy, _ = accuracy(network, data.val, data)
    metrics = {
        "dense_accuracy": dense_accuracy,
        "pruned_accuracy": pruned_accuracy,
        "accuracy": top1,
        "accuracy_drop": dense_accuracy - top1,
        "val_accuracy": val_accuracy,
        "top5_accuracy": top5,
        **sizes(pruned.dense, network, context.example, unstructured=unstructured),
    }
    layers = layer_table(pruned.dense, network, context.example)
    save_pruned(context.workspace.trial_folder(spec.trial_id), network, _description(context, pruned))
    return {
        "metrics": metrics,
        "achieved": pruned.selection.achieved,
        "note": _note(spec, pruned.selection),
        "analysis": pruned.analysis
        | context.method().analyse(pruned.dense, before, network, pruned.task, pruned.scores),
        "layers": layers,
        "epochs": [*pruned.epochs, *rows],
        "seconds": seconds,
        "reused": pruned.reused,
    }


def _description(context: Context, pruned: Pruned) -> dict[str, Any]:
    """What is needed, beside the tensors, to build the network again."""
    data, model = context.data, context.spec.model
    return {
        "model": {"name": model.name, "params": dict(model.params)},
        "shape": {"classes": data.class_count, "channels": data.channels, "size": data.size},
        "kept": pruned.kept,
    }


def _note(spec: TrialSpec, selection: Selection) -> str | None:
    if selection.within or selection.requested is None:
        return None
    return (
        f"asked to remove {selection.requested:.2%} of the {spec.target.quantity}; "
        f"as near as one filter allows is {selection.achieved:.2%}"
    )


def _silent(row: EpochRow, epochs: int) -> None:
    return None
