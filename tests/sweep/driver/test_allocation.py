"""Trials a GPU, from what was measured: cases small enough to do by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.spec.search_space import Resources, SearchSpace
from orchestrator.storage.store import Store
from orchestrator.sweep.driver.allocation import (
    Allocation,
    Gpu,
    Load,
    allocate,
    allocate_without_gpus,
    limit_of,
    load,
    resources_of,
    saturation,
    save,
    save_fall_back,
    shared,
)

GIB = 2**30
GPU = Gpu("Small", 10 * GIB, 8)
SPACE = SearchSpace.parse({"name": "s", "resources": "auto"})


def test_memory_decides_with_a_tenth_to_spare() -> None:
    """Nine of ten GiB hold four trials of two, not five; the busiest would gain from nine more."""
    allocation = allocate([Load("small", GIB, 0.1), Load("large", 2 * GIB, 0.05)], [GPU])
    assert (allocation.per_gpu, allocation.resources) == (4, Resources(cpus=2, gpus=0.25))
    assert allocation.why == "Small; memory: large takes 2.0 GiB of 10.0 GiB"


def test_busyness_decides_where_kernels_leave_little_time() -> None:
    allocation = allocate([Load("a", GIB, 0.2), Load("b", GIB, 0.4)], [GPU])
    assert allocation.per_gpu == 3
    assert allocation.resources == Resources(cpus=2, gpus=0.3333)
    assert allocation.why == "Small; busyness: b keeps it busy 40% of the time"


def test_cores_decide_where_there_are_few() -> None:
    allocation = allocate([Load("a", GIB, 0.01)], [Gpu("Small", 80 * GIB, 2.5)])
    assert (allocation.per_gpu, allocation.resources) == (2, Resources(cpus=1, gpus=0.5))
    assert allocate([Load("a", GIB, 0.01)], [Gpu("Small", GIB, 0.5)]).resources == Resources(cpus=0.5, gpus=1)


def test_the_smallest_gpu_and_the_poorest_machine_decide() -> None:
    allocation = allocate([Load("a", 3 * GIB, 0.1)], [Gpu("Large", 80 * GIB, 4), GPU, Gpu("Large", 80 * GIB, 16)])
    assert (allocation.per_gpu, allocation.resources.cpus) == (3, 1)


@pytest.mark.parametrize(
    ("busy", "count"), [(None, 1), (1.0, 1), (0.9, 1), (0.89, 2), (0.45, 2), (0.3, 3), (0.1, 9), (0.0, 90)]
)
def test_another_trial_is_worth_it_until_the_gpu_is_full(busy: float | None, count: int) -> None:
    assert saturation(busy) == count


def test_a_trial_larger_than_the_gpu_still_runs_alone() -> None:
    assert allocate([Load("a", 20 * GIB, 0.1)], [GPU]).per_gpu == 1


def test_an_earlier_run_that_fell_back_is_a_limit(tmp_path: Path) -> None:
    assert limit_of(tmp_path) is None
    loads = [Load("a", GIB, 0.1)]
    save(Store(tmp_path), tmp_path, allocate(loads, [GPU]), loads, [GPU])
    assert limit_of(tmp_path) is None
    save_fall_back(Store(tmp_path), tmp_path, allocate(loads, [GPU]).halved())
    assert limit_of(tmp_path) == 4
    again = allocate(loads, [GPU], limit_of(tmp_path))
    assert again.per_gpu == 4
    save(Store(tmp_path), tmp_path, again, loads, [GPU])
    assert limit_of(tmp_path) == 4
    record = load(tmp_path)
    assert record is not None
    assert record["loads"] == [{"what": "a", "memory": GIB, "busy": 0.1}]
    assert record["trials_per_gpu"] == 4


def test_halves_until_one_is_left() -> None:
    allocation = shared(Resources(cpus=8, gpus=1), 5, "")
    counts, fractions = [], []
    while allocation.may_halve:
        allocation = allocation.halved()
        counts.append(allocation.per_gpu)
        fractions.append(allocation.resources.gpus)
    assert counts == [2, 1]
    assert fractions == [0.5, 1]
    assert "had its GPU to itself" in allocation.advice


@pytest.mark.parametrize("per_gpu", range(1, 65))
def test_as_many_trials_fit_a_gpu_as_were_meant(per_gpu: int) -> None:
    """In Ray's ten-thousandths, neither one more nor one less."""
    each = round(shared(Resources(cpus=64, gpus=1), per_gpu, "").resources.gpus * 10_000)
    assert 10_000 // each == per_gpu


def test_fixed_resources_are_never_halved_and_named_in_the_reason() -> None:
    allocation = Allocation(Resources(cpus=1, gpus=0.25))
    assert not allocation.may_halve
    assert "resources gives a trial 0.25 of a GPU: raise resources.gpus" in allocation.advice
    assert "resources" in Allocation(Resources(gpus=1)).advice


def test_resources_of_a_sweep_are_as_said_as_measured_or_one_core(tmp_path: Path) -> None:
    assert resources_of(SearchSpace.parse({"name": "s", "resources": {"cpus": 3}}), tmp_path) == Resources(cpus=3)
    assert resources_of(SPACE, tmp_path) == allocate_without_gpus().resources == Resources(cpus=1, gpus=0)
    save(Store(tmp_path), tmp_path, allocate([Load("a", GIB, 0.4)], [GPU]))
    assert resources_of(SPACE, tmp_path) == Resources(cpus=2, gpus=0.3333)
    (tmp_path / "resources.json").write_text('{"resources": {"cp')
    assert resources_of(SPACE, tmp_path) == Resources(cpus=1, gpus=0)
