"""Designed experiments: Saltelli's points for Sobol indices, and Morris's trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from SALib.sample import morris as morris_sample
from SALib.sample import sobol as sobol_sample

from orchestrator.spec.axes import Axis
from orchestrator.spec.errors import SpecError
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.search.base import ArmPoint, FixedSearch
from orchestrator.sweep.search.build import check_search, fixed_search, is_adaptive
from orchestrator.sweep.search.qmc import value_at
from orchestrator.sweep.space.arms import ExpandedArm, expand_arms

MORRIS_LEVELS = 4


class BadDesign(SpecError):
    """A design that cannot be made, or values that do not belong to it."""


@dataclass(frozen=True)
class Design:
    """Points to run, in order; indices follow from complete blocks (Sobol) or trajectories (Morris) alone."""

    kind: Literal["sobol", "morris"]
    axes: Mapping[str, Axis]
    unit: tuple[tuple[float, ...], ...]
    """The same points in the unit cube."""
    points: tuple[Mapping[str, Any], ...]
    block: int
    """Points per block or trajectory."""


def sobol_design(axes: Mapping[str, Axis], blocks: int, seed: int = 0) -> Design:
    """Return Saltelli's design (2002) on a scrambled Sobol sequence: ``blocks * (2 k + 2)`` points of k parameters.

    Args:
        axes: lists of values, or ranges; a whole or logarithmic range gives whole or logarithmically spaced values.
        blocks: a power of 2, so that the sequence is balanced.

    Raises:
        BadDesign: fewer than two parameters, or another number of blocks.
    """
    if blocks < 2 or blocks & (blocks - 1):
        raise BadDesign("search.blocks", f"must be a power of 2, found {blocks}")
    unit = sobol_sample.sample(problem(axes), blocks, calc_second_order=True, seed=seed)
    return _design("sobol", axes, unit.tolist(), 2 * len(axes) + 2)


def morris_design(axes: Mapping[str, Axis], trajectories: int, seed: int = 0) -> Design:
    """Return Morris's one-at-a-time trajectories (1991) on four levels: ``trajectories * (k + 1)`` points of k axes.

    Raises:
        BadDesign: fewer than two parameters or trajectories.
    """
    if trajectories < 2:
        raise BadDesign("search.trajectories", f"must be 2 or more, found {trajectories}")
    unit = morris_sample.sample(problem(axes), trajectories, num_levels=MORRIS_LEVELS, seed=seed)
    return _design("morris", axes, unit.tolist(), len(axes) + 1)


class DesignedSearch(FixedSearch):
    """Base of a search over a design of one arm's axes, repeated for every seed of a `seed` axis."""

    def design(self, axes: Mapping[str, Axis]) -> Design:
        """Return the design over axes without the seed; raises :class:`BadDesign`."""
        raise NotImplementedError

    def points(self, arms: Sequence[ExpandedArm]) -> Iterator[ArmPoint]:
        design, arm = self.design(_varied(arms, type(self).__name__.lower())), arms[0]
        seeds = arm.axes.get("seed", [None])
        if not isinstance(seeds, list):
            raise SpecError(arm.axis_sources["seed"], "a design repeats each point for a list of seeds, found a range")
        for point in design.points:
            for seed in seeds:
                yield 0, {name: seed if name == "seed" else point[name] for name in arm.axes}


def design_of(space: SearchSpace) -> Design:
    """Return the design of a search space with ``search: sobol`` or ``morris``, over all its axes but the seed.

    Raises:
        SpecError: several arms, another search, or a number of blocks or trajectories that is missing or out of range.
    """
    check_search(space.search)
    search = None if is_adaptive(space.search) else fixed_search(space.search)
    if not isinstance(search, DesignedSearch):
        raise BadDesign("search.name", f"is no design: must be sobol or morris, found {space.search.name!r}")
    return search.design(_varied(expand_arms(space), space.search.name))


def problem(axes: Mapping[str, Axis]) -> dict[str, Any]:
    """Return the unit cube of the axes as SALib describes it; raises :class:`BadDesign` for fewer than two."""
    if len(axes) < 2:
        raise BadDesign("axes", f"a design needs two parameters or more, found {list(axes)}")
    return {"num_vars": len(axes), "names": list(axes), "bounds": [[0.0, 1.0]] * len(axes)}


def _varied(arms: Sequence[ExpandedArm], kind: str) -> dict[str, Axis]:
    """The axes of the only arm, without the seed."""
    if len(arms) > 1:
        labels = ", ".join(arm.label for arm in arms)
        raise BadDesign("arms", f"a {kind} design is over the axes of one arm, found {len(arms)}: {labels}")
    return {name: axis for name, axis in arms[0].axes.items() if name != "seed"}


def _design(kind: Literal["sobol", "morris"], axes: Mapping[str, Axis], unit: list[list[float]], block: int) -> Design:
    rows = tuple(tuple(row) for row in unit)
    points = tuple({name: value_at(axis, u) for (name, axis), u in zip(axes.items(), row, strict=True)} for row in rows)
    return Design(kind, axes, rows, points, block)
