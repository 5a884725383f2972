"""One trial: baseline -> method -> selection -> cut -> retrain -> measure. Values in, a `TrialResult` out."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from orchestrator.metrics.extra import Networks, compute
from orchestrator.metrics.size import layer_table, sizes
from orchestrator.spec.errors import PrunesweepError
from orchestrator.spec.failures import Failure, JobOutcome, classify
from orchestrator.spec.result import EpochRow, LayerRow, Status, TrialResult
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage.workspace import Workspace
from orchestrator.surgery.selection import Selection, WeightSelection
from orchestrator.surgery.serialization import save_pruned
from orchestrator.training.checkpoint import Checkpoint
from orchestrator.training.loop import Report, accuracy
from orchestrator.training.rng import reset_process
from orchestrator.trial.context import Context
from orchestrator.trial.provenance import commit, device_name, versions
from orchestrator.trial.stage_cache import training_checkpoint
from orchestrator.trial.stages import Pruned, baseline, importance, prune, retrain, sparse_training, spent, step

Cut = Callable[[dict[str, float]], None]
"""Called with the sizes of the network right after the cut, before any retraining."""


class Stopped(PrunesweepError):
    """Raised by a trial's `report` or `cut` to end the trial; its record says so.

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
    metrics: Sequence[str] = (),
) -> TrialResult:
    """Run one trial and return its record; what goes wrong is in the record, not raised, but for a full disk.

    The pruned network is saved in the trial's folder, shared stages in the store's cache. ``report`` and ``cut`` may
    raise `Stopped`: the record then has what was measured so far, and no final accuracy on the test set. A trial that
    was killed goes on from its last checkpoint, in the folder ``.checkpoint``, and reports the epochs before it again.
    ``metrics`` names metrics of the user's own, computed after retraining.
    """
    return execute_trial(spec, workspace, report, cut=cut, arm=arm, point=point, metrics=metrics)[0]


def execute_trial(
    spec: TrialSpec,
    workspace: Workspace,
    report: Report | None = None,
    *,
    cut: Cut | None = None,
    arm: str = "",
    point: Mapping[str, Any] | None = None,
    metrics: Sequence[str] = (),
) -> tuple[TrialResult, Failure | None]:
    """Run one trial as `run_trial` does; return its record, and what kind of failure it was if it failed."""
    started = datetime.now(UTC)
    failure: Failure | None = None
    measured = _Measured()
    try:
        reset_process(spec.seed, workspace.threads)
        checkpoint_folder = workspace.paths.trial(spec.trial_id).checkpoint
        with training_checkpoint(checkpoint_folder, workspace.store.bucket) as checkpoint:
            measured = _trial(Context(spec, workspace, report or _ignore), cut, checkpoint, metrics)
    except Exception as problem:
        failure = classify(problem)
        if failure.outcome is JobOutcome.STORE_UNAVAILABLE:
            # No property of the trial: it would be recorded as failed, and never run again.
            raise
        if failure.outcome is JobOutcome.DIVERGED:
            failure = replace(failure, reason=str(problem))
    result = TrialResult(
        trial_id=spec.trial_id,
        spec=spec,
        arm=arm,
        point=dict(point or {}),
        status=_status(failure, measured),
        error=failure.reason if failure is not None else None,
        metrics=measured.metrics,
        achieved=measured.achieved,
        note=measured.note,
        stopped_at=measured.stopped_at,
        layers=measured.layers,
        analysis=measured.analysis,
        epochs=measured.epochs,
        seconds=measured.seconds,
        reused=measured.reused,
        device=device_name(workspace.device),
        host=platform.node(),
        started=started.isoformat(timespec="milliseconds"),
        ended=datetime.now(UTC).isoformat(timespec="milliseconds"),
        commit=commit(),
        versions=versions(),
    )
    return result, failure


def run_stage(name: str, spec: TrialSpec, workspace: Workspace, report: Report | None = None) -> bool:
    """Compute a shared stage of a trial; return False if its output existed. Raises what goes wrong.

    One that was killed goes on from its last checkpoint, and reports the epochs before it again.
    """
    reset_process(spec.seed, workspace.threads)
    _, reused = _STAGES[name](Context(spec, workspace, report or _ignore))
    return not reused


@dataclass(frozen=True)
class _Measured:
    """The part of a record that the trial itself finds out; names and meanings are those of `TrialResult`."""

    metrics: dict[str, float] = field(default_factory=dict)
    achieved: float | None = None
    note: str | None = None
    stopped_at: float | None = None
    layers: list[LayerRow] = field(default_factory=list)
    analysis: dict[str, Any] = field(default_factory=dict)
    epochs: list[EpochRow] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)


def _status(failure: Failure | None, measured: _Measured) -> Status:
    if failure is not None:
        return "diverged" if failure.outcome is JobOutcome.DIVERGED else "failed"
    return "done" if measured.stopped_at is None else "stopped"


def _trial(context: Context, on_cut: Cut | None, checkpoint: Checkpoint, extra: Sequence[str]) -> _Measured:
    spec, data = context.spec, context.data
    pruned = prune(context)
    dense_accuracy = pruned.dense_facts["accuracy"]
    pruned_accuracy, _ = accuracy(pruned.network, data.test, data)
    unstructured = isinstance(pruned.selection, WeightSelection)
    size = sizes(pruned.dense, pruned.network, context.example, unstructured=unstructured)
    note = _note(spec, pruned.selection)
    after_cut = _Measured(
        metrics={"dense_accuracy": dense_accuracy, "pruned_accuracy": pruned_accuracy, **size},
        achieved=pruned.selection.achieved,
        note=note,
        analysis=pruned.analysis,
        seconds=pruned.seconds,
        reused=pruned.reused,
    )

    before = copy.deepcopy(pruned.network)
    reported: list[EpochRow] = []

    def report(row: EpochRow, epochs: int) -> None:
        reported.append(row)
        context.report(row, epochs)

    started = time.perf_counter()
    try:
        if on_cut is not None:
            on_cut(size)
        network, rows = retrain(replace(context, report=report), pruned, checkpoint, size["dense_macs"] / size["macs"])
    except Stopped as stop:
        last = {"val_accuracy": reported[-1].val_accuracy} if reported else {}
        return replace(
            after_cut,
            metrics=after_cut.metrics | last,
            seconds={**pruned.seconds, "retrain": spent(started, reported)},
            epochs=[*pruned.epochs, *reported],
            note="; ".join(filter(None, [str(stop), note])),
            stopped_at=stop.share,
        )
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
    transition = context.method().analyse(pruned.dense, before, network, pruned.task, pruned.scores)
    # Last of all: what a metric of the user's own does to the networks or the random numbers changes nothing else.
    own, notes = compute(extra, Networks(pruned.dense, network, context.example, data))
    return replace(
        after_cut,
        metrics=metrics | own,
        note="; ".join(filter(None, [note, *notes])) or None,
        analysis=pruned.analysis | transition,
        layers=layers,
        epochs=[*pruned.epochs, *rows],
        seconds=seconds,
    )


def _description(context: Context, pruned: Pruned) -> dict[str, Any]:
    """Return what is needed, besides the tensors, to build the network again."""
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


def _ignore(row: EpochRow, epochs: int) -> None:
    return None
