"""How many trials share a GPU: computed from measured loads, and recorded beside the sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.spec.search_space import Resources, SearchSpace
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths

_USABLE = 0.9
"""Share of a GPU's memory that trials may fill: allocators fragment, and no probe sees the worst moment of a trial."""
_FULL = 0.9
"""Share of the time in kernels at which a GPU has nothing left for another trial worth its cost."""


@dataclass(frozen=True)
class Gpu:
    """A GPU of the cluster."""

    name: str
    memory: int
    """Bytes."""
    cpus: float
    """CPU cores of its machine, shared out among that machine's GPUs."""


@dataclass(frozen=True)
class Load:
    """What one kind of training needs of a GPU."""

    what: str
    """The training, for a person."""
    memory: int
    """Bytes of GPU memory at the peak, CUDA's own included."""
    busy: float | None
    """Share of the wall time in which kernels run when the training is alone; None: unknown."""


@dataclass(frozen=True)
class Allocation:
    """The resources of one trial, and whether fewer trials at once would give it more."""

    resources: Resources
    whole: Resources | None = None
    """Resources of a trial alone on a GPU; None: the search space fixes the resources."""
    per_gpu: int = 1
    """Trials that share a GPU."""
    why: str = ""
    """What decided, in one line."""

    @property
    def may_halve(self) -> bool:
        """Whether fewer trials could share a GPU, so that one that ran out of memory has more of it."""
        return self.whole is not None and self.per_gpu > 1

    @property
    def advice(self) -> str:
        """What a user can do about a trial that ran out of memory and cannot be given more."""
        held = self.resources.gpus
        if self.whole is None and 0 < held < 1:
            return f"resources gives a trial {held:g} of a GPU: raise resources.gpus, or say resources: auto"
        return "it had its GPU to itself (resources): a smaller batch_size or model needs less"

    def halved(self) -> Allocation:
        """Return the allocation with half as many trials a GPU."""
        assert self.whole is not None
        per_gpu = max(1, self.per_gpu // 2)
        return shared(self.whole, per_gpu, f"a trial ran out of memory with {self.per_gpu} at once")


def shared(whole: Resources, per_gpu: int, why: str) -> Allocation:
    """Return the allocation that divides a GPU and its CPU cores among trials."""
    cpus = whole.cpus / per_gpu
    # Ray counts in ten-thousandths, and rounds: three times 0.3334 would be more than there is.
    gpus = math.floor(whole.gpus * 10_000 / per_gpu) / 10_000
    return Allocation(Resources(cpus=float(math.floor(cpus)) if cpus >= 1 else cpus, gpus=gpus), whole, per_gpu, why)


def allocate_without_gpus() -> Allocation:
    """Return what `auto` is where there is no GPU: one core a trial."""
    core = Resources(cpus=1, gpus=0)
    return Allocation(core, core, 1, "no GPU in the cluster")


def allocate(loads: Sequence[Load], gpus: Sequence[Gpu], at_most: int | None = None) -> Allocation:
    """Return as many trials a GPU as the smallest GPU holds of the heaviest training, as long as each adds throughput.

    Args:
        loads: one for each kind of training, at least one.
        gpus: every GPU of the cluster, at least one.
        at_most: trials a GPU to which an earlier run of the sweep has fallen back.
    """
    smallest = min(gpus, key=lambda gpu: gpu.memory)
    cpus = min(gpu.cpus for gpu in gpus)
    heaviest = max(loads, key=lambda load: load.memory)
    busiest = max(loads, key=lambda load: 1.0 if load.busy is None else load.busy)
    usage = "full for all one can tell" if busiest.busy is None else f"busy {busiest.busy:.0%} of the time"
    limits = [
        (
            int(smallest.memory * _USABLE // heaviest.memory),
            f"memory: {heaviest.what} takes {_gib(heaviest.memory)} of {_gib(smallest.memory)}",
        ),
        (saturation(busiest.busy), f"busyness: {busiest.what} keeps it {usage}"),
        (int(cpus), f"CPUs: {cpus:g} a GPU"),
        *([(at_most, "an earlier run ran out of memory with more")] if at_most is not None else []),
    ]
    count, reason = min(limits, key=lambda limit: limit[0])
    whole = Resources(cpus=cpus, gpus=1)
    return shared(whole, max(1, count), f"{smallest.name}; {reason}")


def saturation(busy: float | None) -> int:
    """Return the trials at once beyond which another adds nothing: kernels of different trials take turns on a GPU."""
    if busy is None:
        return 1
    return max(1, math.ceil(_FULL / max(busy, 0.01) - 1e-9))


def save(
    store: Store, folder: Path, allocation: Allocation, loads: Sequence[Load] = (), gpus: Sequence[Gpu] = ()
) -> None:
    """Write the allocation, and the measurements behind it."""
    _write(
        store,
        folder,
        allocation,
        {"limit": limit_of(folder), "gpus": [asdict(g) for g in gpus], "loads": [asdict(x) for x in loads]},
    )


def save_fall_back(store: Store, folder: Path, allocation: Allocation) -> None:
    """Write the allocation after trials ran out of memory; no later run of the sweep has more trials a GPU."""
    _write(store, folder, allocation, (load(folder) or {}) | {"limit": allocation.per_gpu})


def _write(store: Store, folder: Path, allocation: Allocation, more: Mapping[str, Any]) -> None:
    chosen = {
        "trials_per_gpu": allocation.per_gpu,
        "resources": allocation.resources.model_dump(),
        "why": allocation.why,
    }
    with store.replacing(SweepPaths(folder).resources) as temporary:
        temporary.write_text(json.dumps(dict(more) | chosen, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> dict[str, Any] | None:
    """Return the record of the allocation, or None where there is none that can be read."""
    try:
        record = json.loads((SweepPaths(folder).resources).read_text(encoding="utf-8"))
        Resources.model_validate(record["resources"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(record)


def limit_of(folder: Path) -> int | None:
    """Return the trials a GPU to which an earlier run of the sweep has fallen back, if one has."""
    limit = (load(folder) or {}).get("limit")
    return limit if isinstance(limit, int) else None


def resources_of(space: SearchSpace, folder: Path) -> Resources:
    """Return the resources of a trial: those of the search space, those recorded, or one core if nothing is known."""
    if space.resources != "auto":
        return space.resources
    record = load(folder)
    return Resources() if record is None else Resources.model_validate(record["resources"])


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
