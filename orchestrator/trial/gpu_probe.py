"""Measure a training's GPU memory and utilization in a few steps."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from orchestrator.data.images import ImageData, Split, hold_out
from orchestrator.spec.failures import Diverged, out_of_memory
from orchestrator.spec.result import EpochRow
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage.workspace import Workspace
from orchestrator.training.loop import train
from orchestrator.training.rng import generator_for, reset_process
from orchestrator.trial.context import Context
from orchestrator.trial.stage_cache import state_of

_STEPS = 24
"""Optimizer steps per epoch of the probe; enough that the overhead of an epoch is small."""
_EPOCHS = 3
"""One epoch to warm up, one timed, one profiled: the profiler would slow the timed one."""
_COPIES = 3
"""Extra copies of the network: a retraining trial holds the dense and the cut network and at most one mask a weight."""
_LR = 1e-6
_VALIDATION = 512
"""Images of the validation split: one batch of an accuracy measurement."""


def gpus() -> list[tuple[str, int]]:
    """Return name and total memory in bytes of every GPU visible to this process."""
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [(str(device.name), int(device.total_memory)) for device in devices]


def measure_load(spec: TrialSpec, workspace: Workspace, *, sparse: bool) -> tuple[int, float | None] | None:
    """Train for a few steps; return the peak GPU memory in bytes and the share of the time spent in kernels.

    The share is None if the profiler recorded no kernel. Returns None without CUDA. No other process may use the GPU
    meanwhile: its memory would be counted too.
    """
    if not torch.cuda.is_available():
        return None
    reset_process(spec.seed, workspace.threads)
    torch.cuda.reset_peak_memory_stats()
    timer = _EpochTimer()
    try:
        with suppress(Diverged):
            _train(Context(spec, workspace, timer.on_epoch), sparse=sparse)
    except Exception as problem:
        if not out_of_memory(problem):
            raise
        return torch.cuda.mem_get_info()[1], None
    finally:
        timer.stop()
    # Used memory outside PyTorch's allocator: CUDA's context, kernels, libraries' workspaces.
    free, total = torch.cuda.mem_get_info()
    outside = total - free - torch.cuda.memory_reserved()
    return torch.cuda.max_memory_reserved() + max(0, outside), timer.utilization


def _train(context: Context, *, sparse: bool) -> None:
    """Train on a few images as the stages do: with the method (its sparse training) or without."""
    spec = context.spec
    model = context.fresh_model()
    copies = [copy.deepcopy(model) for _ in range(0 if sparse else _COPIES)]
    method = context.method() if sparse else None
    data, held_out = hold_out(context.data, method.held_out()) if method is not None else (context.data, None)
    sample = _sample(data, spec.baseline.batch_size)
    recipe = context.dense_recipe(_EPOCHS, sample, _LR)
    if method is not None:
        method.prepare(model, context.task(model, state_of(model), recipe.schedule.steps, held_out))
    train(
        model, sample, recipe, stage="probe", generator=generator_for(spec.seed, "probe"), report=context.report,
        hook=method,
    )  # fmt: skip
    del copies


class _EpochTimer:
    """Times the second and profiles the third epoch of a training."""

    def __init__(self) -> None:
        self._seconds = self._kernels = 0.0
        self._profiler: Any = None

    @property
    def utilization(self) -> float | None:
        """Share of an epoch's time in which the GPU ran kernels; None if no kernel was recorded."""
        if not self._seconds or not self._kernels:
            return None
        return min(1.0, self._kernels / self._seconds)

    def on_epoch(self, row: EpochRow, epochs: int) -> None:
        if row.epoch == 1:
            self._seconds = row.seconds
            # Profile the CPU too: without it some kernels were missing from the trace.
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


def _sample(data: ImageData, batch_size: int) -> ImageData:
    return replace(data, train=_first(data.train, _STEPS * batch_size), val=_first(data.val, _VALIDATION))


def _first(split: Split, count: int) -> Split:
    if split.rows is not None:
        return Split(split.images, split.labels[:count], split.rows[:count])
    return Split(split.images[:count], split.labels[:count])
