"""What a training asks of a GPU, found by a few steps of it: memory, and how busy it keeps the GPU."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from orchestrator.data.images import ImageData, Split, hold_out
from orchestrator.spec.errors import out_of_memory
from orchestrator.spec.result import EpochRow
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage.workspace import Workspace
from orchestrator.training.loop import Diverged, train
from orchestrator.training.rng import generator_for, reset_process
from orchestrator.trial.context import Context
from orchestrator.trial.stage_cache import state_of

_STEPS = 24
"""Optimizer steps of each probing epoch: enough that what happens once an epoch weighs little."""
_EPOCHS = 3
"""One to warm up, one by the clock, one under the profiler, which would slow the clock's down."""
_COPIES = 3
"""A trial that retrains holds the dense network, the pruned one as it was cut, and at most a mask for every weight."""
_LR = 1e-6
_VALIDATION = 512
"""Images of one batch when accuracies are measured."""


def gpus() -> list[tuple[str, int]]:
    """Name and bytes of memory of every GPU that this process sees."""
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [(str(one.name), int(one.total_memory)) for one in found]


def load(spec: TrialSpec, workspace: Workspace, *, sparse: bool) -> tuple[int, float | None] | None:
    """Train for a few steps; return the bytes of GPU memory at the worst moment, and the share of the time in kernels.

    The share is None where the profiler saw no kernel; None alone is returned without CUDA. To be called in a process
    that has the GPU to itself: what others hold on it counts as this one's.
    """
    if not torch.cuda.is_available():
        return None
    reset_process(spec.seed, workspace.threads)
    torch.cuda.reset_peak_memory_stats()
    clock = _Clock()
    try:
        with suppress(Diverged):
            _train(Context(spec, workspace, clock.epoch), sparse=sparse)
    except Exception as problem:
        if not out_of_memory(problem):
            raise
        return torch.cuda.mem_get_info()[1], None
    finally:
        clock.stop()
    # The memory that nobody has and no allocator of ours reserved: CUDA's context, its kernels, libraries' workspaces.
    free, total = torch.cuda.mem_get_info()
    beside = total - free - torch.cuda.memory_reserved()
    return torch.cuda.max_memory_reserved() + max(0, beside), clock.busy


def _train(context: Context, *, sparse: bool) -> None:
    """The stages' own training, of few images: with the method, as its sparse training, or without."""
    spec = context.spec
    model = context.fresh_model()
    copies = [copy.deepcopy(model) for _ in range(0 if sparse else _COPIES)]
    method = context.method() if sparse else None
    data, held_out = hold_out(context.data, method.held_out()) if method is not None else (context.data, None)
    few = _few(data, spec.baseline.batch_size)
    recipe = context.dense_recipe(_EPOCHS, few, _LR)
    if method is not None:
        method.prepare(model, context.task(model, state_of(model), recipe.schedule.steps, held_out))
    train(
        model, few, recipe, stage="probe", generator=generator_for(spec.seed, "probe"), report=context.report,
        hook=method,
    )  # fmt: skip
    del copies


class _Clock:
    """Listens to a training of three epochs: times the second, profiles the third."""

    def __init__(self) -> None:
        self._seconds = self._kernels = 0.0
        self._profiler: Any = None

    @property
    def busy(self) -> float | None:
        if not self._seconds or not self._kernels:
            return None
        return min(1.0, self._kernels / self._seconds)

    def epoch(self, row: EpochRow, epochs: int) -> None:
        if row.epoch == 1:
            self._seconds = row.seconds
            # Of the processor's side too: without it, kernels have been seen to go missing.
            self._profiler = torch.profiler.profile()
            self._profiler.start()
        elif row.epoch == 2:
            self.stop()

    def stop(self) -> None:
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        profiler.stop()
        on_device = (
            event
            for event in profiler.key_averages()
            if event.device_type.name == "CUDA" and not event.is_user_annotation
        )
        self._kernels = sum(float(event.self_device_time_total) for event in on_device) / 1e6


def _few(data: ImageData, batch_size: int) -> ImageData:
    return replace(data, train=_first(data.train, _STEPS * batch_size), val=_first(data.val, _VALIDATION))


def _first(split: Split, count: int) -> Split:
    if split.rows is not None:
        return Split(split.images, split.labels[:count], split.rows[:count])
    return Split(split.images[:count], split.labels[:count])
