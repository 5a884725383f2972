"""The stages that trials share: the dense baseline, sparse trainings, importance scores, steps of iterative pruning."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.data.images import hold_out
from orchestrator.methods.base import PruneTask, Scores
from orchestrator.retrain.build import build as build_schedule
from orchestrator.spec.result import EpochRow
from orchestrator.surgery.cutting import apply_weight_masks, cut
from orchestrator.surgery.masks import WeightMasks
from orchestrator.surgery.selection import ChannelSelection, Selection, WeightSelection
from orchestrator.training.checkpoint import Checkpoint
from orchestrator.training.loop import Batch, Recipe, accuracy, steps_per_epoch, train
from orchestrator.training.rng import generator_for
from orchestrator.trial.context import Context
from orchestrator.trial.pruning import prune_network, stored, train_with_method
from orchestrator.trial.stage_cache import StageOutput, once, state_of


def baseline(context: Context) -> tuple[StageOutput, bool]:
    """Return the dense network: weights, and its accuracy on the test set, which is measured here only."""

    def compute(checkpoint: Checkpoint) -> StageOutput:
        started = time.perf_counter()
        model = context.fresh_model()
        generator = generator_for(context.spec.seed, "baseline")
        rows = train(
            model, context.data, context.dense_recipe(), stage="baseline", generator=generator, report=context.report,
            checkpoint=checkpoint,
        )  # fmt: skip
        seconds = spent(started, rows)
        top1, top5 = accuracy(model, context.data.test, context.data)
        return StageOutput(state_of(model), rows, seconds, {"accuracy": top1, "top5_accuracy": top5})

    return once(context.workspace, "baseline", context.spec.baseline_key, compute)


def sparse_training(context: Context) -> tuple[StageOutput, bool]:
    """Return a network trained together with its method: weights with gates folded in, and scores."""
    method = context.method()
    spec = context.spec

    def compute(checkpoint: Checkpoint) -> StageOutput:
        dense, _ = baseline(context)
        started = time.perf_counter()
        model = context.fresh_model()
        if method.starts_from == "baseline":
            model.load_state_dict(dense.tensors)
        data, held_out = hold_out(context.data, method.held_out())
        recipe = context.dense_recipe(method.sparse_epochs or spec.baseline.epochs, data, method.sparse_lr)
        task = context.task(model, dense.tensors, recipe.schedule.steps, held_out)
        scores, rows = train_with_method(
            method, model, task, data, recipe, generator=generator_for(spec.seed, "sparse_training"),
            report=context.report, checkpoint=checkpoint,
        )  # fmt: skip
        seconds = spent(started, rows)
        return StageOutput(_prefixed("model/", state_of(model)) | _prefixed("score/", scores), rows, seconds)

    key = spec.sparse_training_key(for_target=method.trains_for_target)
    return once(context.workspace, "sparse_training", key, compute)


def importance(context: Context) -> tuple[StageOutput, bool]:
    """Return the scores of the dense network's channels or weights."""

    def compute(checkpoint: Checkpoint) -> StageOutput:
        dense, _ = baseline(context)
        started = time.perf_counter()
        model = context.fresh_model()
        model.load_state_dict(dense.tensors)
        scores = stored(context.method().scores(model, context.task(model, dense.tensors)))
        return StageOutput(_prefixed("score/", scores), [], time.perf_counter() - started)

    return once(context.workspace, "importance", context.spec.importance_key, compute)


def step(context: Context) -> tuple[StageOutput, bool]:
    """Return the network of one intermediate step of iterative pruning: pruned to the trial's target and retrained.

    ``context.spec`` is that of the step (`TrialSpec.before_last_step`); the steps before it are stages of their own.
    """

    def compute(checkpoint: Checkpoint) -> StageOutput:
        started = time.perf_counter()
        pruned = prune(context)
        network, rows = retrain(context, pruned, checkpoint)
        facts: dict[str, Any] = {"kept": pruned.kept}
        return StageOutput(state_of(network), rows, spent(started, rows), facts)

    return once(context.workspace, "step", context.spec.step_key, compute)


@dataclass(frozen=True)
class Pruned:
    """A network right after pruning, with everything that its record needs."""

    dense: nn.Module
    network: nn.Module
    selection: Selection
    kept: dict[str, list[int]] | None
    """Units of the dense network that every channel group keeps; None where single weights were removed."""
    dense_facts: dict[str, Any]
    epochs: list[EpochRow]
    seconds: dict[str, float]
    reused: list[str]
    task: PruneTask
    scores: Scores
    analysis: dict[str, Any]


def prune(context: Context) -> Pruned:
    """Run baseline -> method -> selection -> cut, from the last step where pruning is iterative."""
    spec = context.spec
    seconds: dict[str, float] = {}
    rows: list[EpochRow] = []
    reused: list[str] = []

    def take(name: str, stage: tuple[StageOutput, bool]) -> StageOutput:
        """Add a stage's time and epochs to the record, and return its output."""
        output, was_cached = stage
        seconds[name] = seconds.get(name, 0.0) + output.seconds
        rows.extend(output.epochs)
        if was_cached and name not in reused:
            reused.append(name)
        return output

    trained = take("baseline", baseline(context))
    dense = context.fresh_model()
    dense.load_state_dict(trained.tensors)
    method = context.method()
    network, before = dense, None
    if spec.target.steps:
        last = take("step", step(Context(spec.before_last_step, context.workspace, context.report)))
        before = last.facts["kept"]
        network = _cut_again(context, before)
        network.load_state_dict(last.tensors)
    task = context.task(network, trained.tensors)
    if method.trains:
        output = take("sparse_training", sparse_training(context))
        network = context.fresh_model()
        network.load_state_dict(_part(output, "model/"))
        scores: Scores = _part(output, "score/")
    elif method.reads_data and network is dense:
        scores = _part(take("importance", importance(context)), "score/")
    else:
        started = time.perf_counter()
        scores = method.scores(network, task)
        seconds["importance"] = time.perf_counter() - started
    started = time.perf_counter()
    if spec.target.steps:
        scores, task = _for_step(scores, task, network, dense, context)
    pruned = prune_network(method, network, scores, task)
    selection = pruned.selection
    kept = _composed(before or {}, selection) if isinstance(selection, ChannelSelection) else None
    seconds["cut"] = time.perf_counter() - started
    return Pruned(
        dense, pruned.network, selection, kept, trained.facts, rows, seconds, reused, task, scores, pruned.analysis
    )


def retrain(
    context: Context, pruned: Pruned, checkpoint: Checkpoint, macs_ratio: float = 1.0
) -> tuple[nn.Module, list[EpochRow]]:
    """Retrain a pruned network by the trial's schedule; removed weights stay removed."""
    spec, data, network = context.spec, context.data, pruned.network
    batch_size = spec.retrain.batch_size or spec.baseline.batch_size
    weight_decay = spec.baseline.weight_decay if spec.retrain.weight_decay is None else spec.retrain.weight_decay
    schedule = build_schedule(
        spec.retrain, spec.baseline, steps_per_epoch=steps_per_epoch(data, batch_size), macs_ratio=macs_ratio
    )
    if schedule.reset_weights:
        # The pruned architecture with new weights: a new dense network is cut, so that every model initializes its own
        # weights.
        network = context.fresh_model("scratch")
        if isinstance(pruned.selection, WeightSelection):
            network = apply_weight_masks(network, WeightSelection(pruned.selection.masks))
        else:
            network = cut(network, context.example, ChannelSelection(_kept_units(pruned.kept)))
    mask = None
    if isinstance(pruned.selection, WeightSelection):
        mask = FixedMask(WeightMasks(network, pruned.selection.masks))
    rows = train(
        network,
        data,
        Recipe(schedule, batch_size, weight_decay, optimizer=spec.baseline.optimizer),
        stage="retrain",
        generator=generator_for(spec.seed, "retrain"),
        report=context.report,
        hook=mask,
        checkpoint=checkpoint.narrowed(pruned=_fingerprint(pruned)),
    )
    return network, rows


def spent(started: float, rows: Sequence[EpochRow]) -> float:
    """Return the seconds since ``started``, or those of all epochs where some were trained before an interruption."""
    return max(time.perf_counter() - started, sum(row.seconds for row in rows))


class FixedMask:
    """A training hook that keeps removed weights at zero while the others are retrained."""

    task_loss_weight = 1.0
    gradient_clip = None
    training_state = ()

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


def _for_step(
    scores: Scores, task: PruneTask, network: nn.Module, dense: nn.Module, context: Context
) -> tuple[Scores, PruneTask]:
    """Return scores and target for a network pruned in earlier steps: zeros score lowest, shares are of the dense."""
    target = task.target
    if target.granularity == "weights":
        parameters = dict(network.named_parameters())
        zeros_lowest = {
            name: torch.where(parameters[name] == 0, score.min() - 1, score) for name, score in scores.items()
        }
        return zeros_lowest, task
    if target.sparsity is None or target.quantity == "weights":
        return scores, task
    whole = context.task(dense, {}).costs.dense(target.quantity)
    remaining = task.costs.dense(target.quantity)
    share = max(0.0, 1 - (1 - target.sparsity) * whole / remaining)
    return scores, replace(task, target=target.model_copy(update={"sparsity": share}))


def _fingerprint(pruned: Pruned) -> str:
    """Return a digest of the selection: a checkpoint of another selection of the same size must not be used."""
    digest = hashlib.sha256(json.dumps(pruned.kept).encode())
    if isinstance(pruned.selection, WeightSelection):
        for name, mask in pruned.selection.masks.items():
            digest.update(name.encode())
            digest.update(mask.cpu().numpy().tobytes())
    return digest.hexdigest()


def _cut_again(context: Context, kept: dict[str, list[int]] | None) -> nn.Module:
    """Return a new network of the shape after the earlier steps."""
    model = context.fresh_model()
    return model if kept is None else cut(model, context.example, ChannelSelection(_kept_units(kept)))


def _kept_units(kept: dict[str, list[int]] | None) -> dict[str, tuple[int, ...]]:
    return {name: tuple(units) for name, units in (kept or {}).items()}


def _composed(before: dict[str, list[int]], selection: ChannelSelection) -> dict[str, list[int]]:
    """Return the units kept of the dense network after earlier steps and this one."""
    composed = {
        name: [before[name][unit] for unit in units] if name in before else list(units)
        for name, units in selection.kept.items()
    }
    return {**before, **composed}


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _part(output: StageOutput, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in output.tensors.items() if name.startswith(prefix)}
