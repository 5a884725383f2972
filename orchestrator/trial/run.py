"""One trial: baseline -> method -> selection -> cut -> retrain -> measure. Values in, a `TrialResult` out."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from orchestrator.metrics.size import layer_table, sizes
from orchestrator.spec.errors import OUT_OF_MEMORY, PrunesweepError, out_of_memory, out_of_space
from orchestrator.spec.redacting import redacted
from orchestrator.spec.result import EpochRow, Status, TrialResult
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage.workspace import Workspace
from orchestrator.surgery.selection import Selection, WeightSelection
from orchestrator.surgery.serialization import save_pruned
from orchestrator.training.checkpoint import Checkpoint
from orchestrator.training.loop import Diverged, Report, accuracy
from orchestrator.training.rng import reset_process
from orchestrator.trial.context import Context
from orchestrator.trial.provenance import commit, device_name, versions
from orchestrator.trial.stage_cache import training_checkpoint
from orchestrator.trial.stages import Pruned, baseline, importance, prune, retrain, sparse_training, spent, step

Cut = Callable[[dict[str, float]], None]
"""Called with the sizes of the network right after the cut, before any retraining."""


class Stopped(PrunesweepError):
    """Raised by what a trial reports to: it ends here, and its record says so.

    Args:
        reason: one line.
        share: of the retraining that was done, 0 to 1.
    """

    def __init__(self, reason: str, share: float) -> None:
        super().__init__(reason)
        self.share = share


_STAGES = {"baseline": baseline, "sparse_training": sparse_training, "importance": importance, "step": step}


def run_trial(
    spec: TrialSpec,
    workspace: Workspace,
    report: Report | None = None,
    *,
    cut: Cut | None = None,
    arm: str = "",
    point: Mapping[str, Any] | None = None,
) -> TrialResult:
    """Run one trial and return its record; what goes wrong is in the record, not raised, but for a full disk.

    The pruned network is saved in the trial's folder, shared stages in the store's cache. ``report`` and ``cut`` may
    raise `Stopped`: the record then has what was measured so far, and no final accuracy on the test set. A trial that
    was killed goes on from its last checkpoint, in the folder ``.checkpoint``, and reports the epochs before it again.
    """
    started = datetime.now(UTC)
    status: Status = "failed"
    error: str | None = None
    body: dict[str, Any] = {}
    try:
        reset_process(spec.seed, workspace.threads)
        paths = workspace.paths.trial(spec.trial_id)
        with training_checkpoint(paths.checkpoint, workspace.store.bucket) as checkpoint:
            body = _trial(Context(spec, workspace, report or _silent), cut, checkpoint)
        status = "done" if body.get("stopped_at") is None else "stopped"
    except Diverged as problem:
        status, error = "diverged", str(problem)
    except Exception as problem:
        if out_of_space(problem):
            # No property of the trial: it would be recorded as failed, and never run again.
            raise
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
    """Compute a shared stage of a trial; False if it was there already. Raises what goes wrong.

    One that was killed goes on from its last checkpoint, and reports the epochs before it again.
    """
    reset_process(spec.seed, workspace.threads)
    _, reused = _STAGES[name](Context(spec, workspace, report or _silent))
    return not reused


def reason(problem: BaseException) -> str:
    """One line that says what went wrong, without secrets of URIs."""
    text = redacted(str(problem)).strip().splitlines()
    if out_of_memory(problem):
        # PyTorch goes on for a page about its allocator.
        return f"{OUT_OF_MEMORY}: {'. '.join(text[0].split('. ')[:2]) if text else type(problem).__name__}"
    return f"{type(problem).__name__}: {text[0]}" if text else type(problem).__name__


def _trial(context: Context, on_cut: Cut | None, checkpoint: Checkpoint) -> dict[str, Any]:
    spec, data = context.spec, context.data
    pruned = prune(context)
    dense_accuracy = pruned.dense_facts["accuracy"]
    pruned_accuracy, _ = accuracy(pruned.network, data.test, data)
    unstructured = isinstance(pruned.selection, WeightSelection)
    size = sizes(pruned.dense, pruned.network, context.example, unstructured=unstructured)
    note = _note(spec, pruned.selection)
    body: dict[str, Any] = {
        "metrics": {"dense_accuracy": dense_accuracy, "pruned_accuracy": pruned_accuracy, **size},
        "achieved": pruned.selection.achieved,
        "note": note,
        "analysis": pruned.analysis,
        "seconds": pruned.seconds,
        "reused": pruned.reused,
    }

    before = copy.deepcopy(pruned.network)
    done: list[EpochRow] = []

    def heard(row: EpochRow, epochs: int) -> None:
        done.append(row)
        context.report(row, epochs)

    started = time.perf_counter()
    try:
        if on_cut is not None:
            on_cut(size)
        network, rows = retrain(replace(context, report=heard), pruned, checkpoint, size["dense_macs"] / size["macs"])
    except Stopped as stop:
        if done:
            body["metrics"]["val_accuracy"] = done[-1].val_accuracy
        body["seconds"] = {**pruned.seconds, "retrain": spent(started, done)}
        body["epochs"] = [*pruned.epochs, *done]
        body["note"] = "; ".join(filter(None, [str(stop), note]))
        return {**body, "stopped_at": stop.share}
    seconds = {**pruned.seconds, "retrain": spent(started, rows)}
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
        **body,
        "metrics": metrics,
        "analysis": pruned.analysis
        | context.method().analyse(pruned.dense, before, network, pruned.task, pruned.scores),
        "layers": layers,
        "epochs": [*pruned.epochs, *rows],
        "seconds": seconds,
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
    notes = []
    if not selection.within and selection.requested is not None:
        notes.append(
            f"asked to remove {selection.requested:.2%} of the {spec.target.quantity}; "
            f"as near as one filter allows is {selection.achieved:.2%}"
        )
    if isinstance(selection, WeightSelection):
        emptied = [name for name, mask in selection.masks.items() if mask.numel() > 1 and int(mask.sum()) == 1]
        if emptied:
            # The one is left for form's sake: see `select_kept` and `select_weights`.
            notes.append(f"no more than one weight is left in {', '.join(emptied)}")
    return "; ".join(notes) or None


def _silent(row: EpochRow, epochs: int) -> None:
    return None
