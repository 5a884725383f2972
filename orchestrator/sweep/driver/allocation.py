"""How many trials share a GPU: arithmetic on what was measured, and its record beside the sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.spec.search_space import Resources, SearchSpace
from orchestrator.storage.store import Store

RECORD = "resources.json"
"""In the sweep's folder: what `resources: auto` came to, and why."""
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
    """What one kind of training asks of a GPU."""

    what: str
    memory: int
    """Bytes at the worst moment, CUDA's own among them."""
    busy: float | None
    """Share of the wall time in which kernels run, of a training that is alone; None: nobody could tell."""


@dataclass(frozen=True)
class Allocation:
    """What one trial holds, and whether fewer trials at once would give it more."""

    resources: Resources
    whole: Resources | None = None
    """What a trial alone on a GPU holds; None: the search space fixes the resources."""
    per_gpu: int = 1
    why: str = ""

    @property
    def may_halve(self) -> bool:
        """A trial that ran out of memory may have more of it."""
        return self.whole is not None and self.per_gpu > 1

    @property
    def advice(self) -> str:
        """What to do about a trial that ran out of memory all the same."""
        held = self.resources.gpus
        if self.whole is None and 0 < held < 1:
            return f"resources gives a trial {held:g} of a GPU: raise resources.gpus, or say resources: auto"
        return "it had its GPU to itself (resources): a smaller batch_size or model needs less"

    def halved(self) -> Allocation:
        """The same with half as many trials a GPU."""
        assert self.whole is not None
        per_gpu = max(1, self.per_gpu // 2)
        return shared(self.whole, per_gpu, f"a trial ran out of memory with {self.per_gpu} at once")


def shared(whole: Resources, per_gpu: int, why: str) -> Allocation:
    """A GPU and its CPU cores shared out among trials."""
    cpus = whole.cpus / per_gpu
    # Ray counts in ten-thousandths, and rounds: three times 0.3334 would be more than there is.
    gpus = math.floor(whole.gpus * 10_000 / per_gpu) / 10_000
    return Allocation(Resources(cpus=float(math.floor(cpus)) if cpus >= 1 else cpus, gpus=gpus), whole, per_gpu, why)


def allocate_without_gpus() -> Allocation:
    """One core a trial: what `auto` is where no GPU is."""
    one = Resources(cpus=1, gpus=0)
    return Allocation(one, one, 1, "no GPU in the cluster")


def allocate(loads: Sequence[Load], gpus: Sequence[Gpu], at_most: int | None = None) -> Allocation:
    """As many trials as the smallest GPU holds of the heaviest training, as long as each still gains.

    Args:
        loads: of every kind of training, at least one.
        gpus: all that trials may be given, at least one.
        at_most: trials at once that an earlier run of the sweep has fallen back to.
    """
    smallest = min(gpus, key=lambda gpu: gpu.memory)
    cpus = min(gpu.cpus for gpu in gpus)
    heaviest = max(loads, key=lambda load: load.memory)
    busiest = max(loads, key=lambda load: 1.0 if load.busy is None else load.busy)
    told = "full for all one can tell" if busiest.busy is None else f"busy {busiest.busy:.0%} of the time"
    limits = [
        (
            int(smallest.memory * _USABLE // heaviest.memory),
            f"memory: {heaviest.what} takes {_gib(heaviest.memory)} of {_gib(smallest.memory)}",
        ),
        (saturation(busiest.busy), f"busyness: {busiest.what} keeps it {told}"),
        (int(cpus), f"CPUs: {cpus:g} a GPU"),
        *([(at_most, "an earlier run ran out of memory with more")] if at_most is not None else []),
    ]
    count, reason = min(limits, key=lambda limit: limit[0])
    whole = Resources(cpus=cpus, gpus=1)
    return shared(whole, max(1, count), f"{smallest.name}; {reason}")


def saturation(busy: float | None) -> int:
    """Trials at once after which another gains nothing: kernels of different trials take turns on a GPU."""
    if busy is None:
        return 1
    return max(1, math.ceil(_FULL / max(busy, 0.01) - 1e-9))


def keep(
    store: Store, folder: Path, allocation: Allocation, loads: Sequence[Load] = (), gpus: Sequence[Gpu] = ()
) -> None:
    """Write what was chosen, and what was measured for it."""
    _write(
        store,
        folder,
        allocation,
        {"limit": limit_of(folder), "gpus": [asdict(g) for g in gpus], "loads": [asdict(x) for x in loads]},
    )


def save_fall_back(store: Store, folder: Path, allocation: Allocation) -> None:
    """Write that trials ran out of memory: no later run of the sweep has more of them at once."""
    _write(store, folder, allocation, (kept(folder) or {}) | {"limit": allocation.per_gpu})


def _write(store: Store, folder: Path, allocation: Allocation, more: Mapping[str, Any]) -> None:
    chosen = {
        "trials_per_gpu": allocation.per_gpu,
        "resources": allocation.resources.model_dump(),
        "why": allocation.why,
    }
    with store.replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(dict(more) | chosen, indent=2) + "\n", encoding="utf-8")


def kept(folder: Path) -> dict[str, Any] | None:
    """The record, or None where there is none that can be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        Resources.model_validate(record["resources"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(record)


def limit_of(folder: Path) -> int | None:
    """Trials at once that an earlier run of the sweep has fallen back to, if one has."""
    limit = (kept(folder) or {}).get("limit")
    return limit if isinstance(limit, int) else None


def resources_of(space: SearchSpace, folder: Path) -> Resources:
    """What a trial of the sweep holds: as the search space says, as was measured, or one core where nobody knows."""
    if space.resources != "auto":
        return space.resources
    record = kept(folder)
    return Resources() if record is None else Resources.model_validate(record["resources"])


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
