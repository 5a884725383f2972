"""One trial: baseline -> method -> selection -> cut -> retrain -> measure. Values in, a `TrialResult` out."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from orchestrator.data.images import ImageData, calibration, open_data
from orchestrator.methods import METHODS
from orchestrator.methods.base import Method, PruneTask, Ranking, Scores, filters
from orchestrator.metrics.size import layer_table, sizes
from orchestrator.models.build import build as build_model
from orchestrator.retrain.build import build as build_schedule
from orchestrator.spec.result import EpochRow, LayerRow, Status, TrialResult
from orchestrator.spec.trial import TrialSpec
from orchestrator.spec.workspace import Workspace
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.cutting import apply_weight_masks, cut
from orchestrator.surgery.groups import ChannelGroup, channel_groups
from orchestrator.surgery.masks import WeightMasks
from orchestrator.surgery.saved import save_pruned
from orchestrator.surgery.selecting import Selection, WeightSelection
from orchestrator.training.loop import Batch, Diverged, Recipe, Report, accuracy, steps_per_epoch, train
from orchestrator.training.rng import generator_for, reset_process, seed_for
from orchestrator.training.schedule import dense_schedule
from orchestrator.trial.stages import StageOutput, once, state_of

_CALIBRATION_IMAGES = 1024


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
        body = _trial(spec, workspace, report or _silent)
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
    data = _data(spec, workspace)
    stage = {"baseline": baseline, "sparse_training": sparse_training, "importance": importance}[name]
    _, reused = stage(spec, data, workspace, report or _silent)
    return not reused


def baseline(spec: TrialSpec, data: ImageData, workspace: Workspace, report: Report) -> tuple[StageOutput, bool]:
    """The dense network: weights, and its accuracy on the test set (measured here, once)."""

    def compute() -> StageOutput:
        started = time.perf_counter()
        model = fresh_model(spec, data, workspace)
        schedule = dense_schedule(spec.baseline, steps_per_epoch(data, spec.baseline.batch_size))
        recipe = Recipe(schedule, spec.baseline.batch_size, spec.baseline.weight_decay, spec.baseline.nesterov)
        rows = train(
            model, data, recipe, stage="baseline", generator=generator_for(spec.seed, "baseline"), report=report
        )
        seconds = time.perf_counter() - started
        top1, top5 = accuracy(model, data.test, data)
        return StageOutput(state_of(model), rows, seconds, {"accuracy": top1, "top5_accuracy": top5})

    return once(workspace, "baseline", spec.baseline_key, compute)


def sparse_training(spec: TrialSpec, data: ImageData, workspace: Workspace, report: Report) -> tuple[StageOutput, bool]:
    """A network trained from scratch together with its method: weights with gates folded in, and scores."""
    method = make_method(spec)

    def compute() -> StageOutput:
        started = time.perf_counter()
        model = fresh_model(spec, data, workspace)
        task = make_task(spec, model, data)
        method.prepare(model, task)
        epochs = getattr(method, "sparse_epochs", None) or spec.baseline.epochs
        schedule = dense_schedule(spec.baseline, steps_per_epoch(data, spec.baseline.batch_size), epochs)
        recipe = Recipe(schedule, spec.baseline.batch_size, spec.baseline.weight_decay, spec.baseline.nesterov)
        rows = train(
            model,
            data,
            recipe,
            stage="sparse_training",
            generator=generator_for(spec.seed, "sparse_training"),
            report=report,
            companion=method,
        )
        scores = _ranking(method).scores(model, task)
        method.finish(model)
        seconds = time.perf_counter() - started
        tensors = {f"model/{name}": tensor for name, tensor in state_of(model).items()}
        return StageOutput(tensors | _score_tensors(scores), rows, seconds)

    key = spec.sparse_training_key(for_target=method.trains_for_target)
    return once(workspace, "sparse_training", key, compute)


def importance(spec: TrialSpec, data: ImageData, workspace: Workspace, report: Report) -> tuple[StageOutput, bool]:
    """The scores of the dense network's channels or weights."""

    def compute() -> StageOutput:
        dense, _ = baseline(spec, data, workspace, report)
        started = time.perf_counter()
        model = fresh_model(spec, data, workspace)
        model.load_state_dict(dense.tensors)
        scores = _ranking(make_method(spec)).scores(model, make_task(spec, model, data))
        return StageOutput(_score_tensors(scores), [], time.perf_counter() - started)

    return once(workspace, "importance", spec.importance_key, compute)


def make_method(spec: TrialSpec) -> Method:
    method = METHODS.load(spec.method.name)(**spec.method.params)
    assert isinstance(method, Method)
    return method


def make_task(spec: TrialSpec, model: nn.Module, data: ImageData) -> PruneTask:
    """What a method may look at, for a network as it stands."""
    example = example_of(data)
    groups = prunable_groups(model, example) if spec.target.granularity == "channels" else []
    return PruneTask(
        target=spec.target,
        groups=groups,
        costs=Costs(model, example, groups),
        calibration=lambda: calibration(
            data, _CALIBRATION_IMAGES, spec.baseline.batch_size, seed_for(spec.seed, "calibration")
        ),
        loss=F.cross_entropy,
        training_size=len(data.train),
        generator=generator_for(spec.seed, "method"),
    )


def prunable_groups(model: nn.Module, example: torch.Tensor) -> list[ChannelGroup]:
    """The channel groups that a target may shrink: those of convolution filters.

    The papers prune filters and leave the hidden units of a classifier alone (ranked beside filters, its hundreds of
    small scores would empty it first). A network without convolutions has its hidden units pruned.
    """
    groups = channel_groups(model, example)
    of_filters = [group for group in groups if any(isinstance(m, nn.Conv2d) for _, m, _ in filters(group, model))]
    return of_filters or groups


def fresh_model(spec: TrialSpec, data: ImageData, workspace: Workspace, purpose: str = "init") -> nn.Module:
    """A dense network with the trial's own first weights, the same on every device."""
    torch.manual_seed(seed_for(spec.seed, purpose))
    model = build_model(
        spec.model.name, spec.model.params, classes=data.class_count, channels=data.channels, size=data.size
    )
    return model.to(workspace.device)


def example_of(data: ImageData) -> torch.Tensor:
    """One empty image. Shape (1, channels, size, size)."""
    return torch.zeros(1, data.channels, data.size, data.size, device=data.train.labels.device)


class FixedMask:
    """Keeps removed weights at zero while the others are retrained."""

    task_loss_weight = 1.0

    def __init__(self, masks: WeightMasks) -> None:
        self._masks = masks

    def extra_parameters(self) -> tuple[dict[str, Any], ...]:
        return ()

    def penalty(self, model: nn.Module, batch: Batch) -> None:
        return None

    def after_step(self, model: nn.Module) -> None:
        self._masks.apply()

    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        return None


def _trial(spec: TrialSpec, workspace: Workspace, report: Report) -> dict[str, Any]:
    data = _data(spec, workspace)
    example = example_of(data)
    dense_output, dense_reused = baseline(spec, data, workspace, report)
    dense = fresh_model(spec, data, workspace)
    dense.load_state_dict(dense_output.tensors)
    seconds = {"baseline": dense_output.seconds}
    rows = list(dense_output.epochs)
    reused = ["baseline"] if dense_reused else []

    method = make_method(spec)
    task = make_task(spec, dense, data)
    ranking = _ranking(method)
    network = dense
    if method.trains:
        output, was_there = sparse_training(spec, data, workspace, report)
        network = fresh_model(spec, data, workspace)
        network.load_state_dict(_part(output, "model/"))
        scores: Scores = _part(output, "score/")
        seconds["sparse_training"] = output.seconds
        rows += output.epochs
        reused += ["sparse_training"] if was_there else []
    elif method.reads_data:
        output, was_there = importance(spec, data, workspace, report)
        scores = _part(output, "score/")
        seconds["importance"] = output.seconds
        reused += ["importance"] if was_there else []
    else:
        started = time.perf_counter()
        scores = ranking.scores(network, task)
        seconds["importance"] = time.perf_counter() - started
    selection = ranking.select_from(scores, task)

    started = time.perf_counter()
    pruned = _removed(network, example, selection)
    seconds["cut"] = time.perf_counter() - started
    pruned_accuracy, _ = accuracy(pruned, data.test, data)
    unstructured = isinstance(selection, WeightSelection)
    size = sizes(dense, pruned, example, unstructured=unstructured)

    started = time.perf_counter()
    batch_size = spec.retrain.batch_size or spec.baseline.batch_size
    weight_decay = spec.baseline.weight_decay if spec.retrain.weight_decay is None else spec.retrain.weight_decay
    schedule = build_schedule(
        spec.retrain,
        spec.baseline,
        steps_per_epoch=steps_per_epoch(data, batch_size),
        macs_ratio=size["dense_macs"] / size["macs"],
    )
    if schedule.reset_weights:
        # The pruned architecture with new weights: what is cut is a new dense network, so every model keeps its own
        # way of drawing first weights.
        pruned = _removed(fresh_model(spec, data, workspace, "scratch"), example, selection)
    mask = FixedMask(WeightMasks(pruned, selection.masks)) if isinstance(selection, WeightSelection) else None
    rows += train(
        pruned,
        data,
        Recipe(schedule, batch_size, weight_decay),
        stage="retrain",
        generator=generator_for(spec.seed, "retrain"),
        report=report,
        companion=mask,
    )
    seconds["retrain"] = time.perf_counter() - started
    top1, top5 = accuracy(pruned, data.test, data)
    val_accuracy, _ = accuracy(pruned, data.val, data)
    size = sizes(dense, pruned, example, unstructured=unstructured)
    metrics = {
        "dense_accuracy": dense_output.facts["accuracy"],
        "pruned_accuracy": pruned_accuracy,
        "accuracy": top1,
        "accuracy_drop": dense_output.facts["accuracy"] - top1,
        "val_accuracy": val_accuracy,
        "top5_accuracy": top5,
        **size,
    }
    _save(workspace.trial_folder(spec.trial_id), spec, pruned, data, selection)
    return {
        "metrics": metrics,
        "achieved": selection.achieved,
        "note": _note(spec, selection),
        "layers": [LayerRow.model_validate(row, from_attributes=True) for row in layer_table(dense, pruned, example)],
        "epochs": rows,
        "seconds": seconds,
        "reused": reused,
    }


def _data(spec: TrialSpec, workspace: Workspace) -> ImageData:
    params = {name: value for name, value in spec.data.params.items() if name != "fingerprint"}
    return open_data(spec.data.name, params, device=torch.device(workspace.device), folder=workspace.data_cache)


def _removed(network: nn.Module, example: torch.Tensor, selection: Selection) -> nn.Module:
    if isinstance(selection, WeightSelection):
        return apply_weight_masks(network, selection)
    return cut(network, example, selection)


def _ranking(method: Method) -> Ranking:
    assert isinstance(method, Ranking), f"{type(method).__name__} gives no scores"
    return method


def _score_tensors(scores: Scores) -> dict[str, torch.Tensor]:
    return {f"score/{name}": score.detach().float().cpu() for name, score in scores.items()}


def _part(output: StageOutput, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in output.tensors.items() if name.startswith(prefix)}


def _note(spec: TrialSpec, selection: Selection) -> str | None:
    if selection.within or selection.requested is None:
        return None
    return (
        f"asked to remove {selection.requested:.2%} of the {spec.target.quantity}; "
        f"as near as one filter allows is {selection.achieved:.2%}"
    )


def _save(folder: Path, spec: TrialSpec, pruned: nn.Module, data: ImageData, selection: Selection) -> None:
    shape = {"classes": data.class_count, "channels": data.channels, "size": data.size}
    model = {"name": spec.model.name, "params": dict(spec.model.params)}
    kept = None if isinstance(selection, WeightSelection) else {k: list(v) for k, v in selection.kept.items()}
    save_pruned(folder, pruned, {"model": model, "shape": shape, "kept": kept})


def reason(problem: BaseException) -> str:
    """One line that says what went wrong."""
    text = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {text[0]}" if text else type(problem).__name__


def device_name(device: str) -> str:
    if device.startswith("cuda") and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(torch.device(device)))
    return _processor()


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def commit() -> str:
    """The commit of the package's checkout, or nothing where it is installed."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@cache
def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("prunesweep", "torch", "torchvision", "torch-pruning", "ray", "mlflow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _silent(row: EpochRow, epochs: int) -> None:
    return None
