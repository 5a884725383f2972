"""Designed experiments as searches: Saltelli's points for Sobol indices, and Morris's trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from SALib.sample import morris as morris_sample
from SALib.sample import sobol as sobol_sample

from orchestrator.spec.axes import Axis
from orchestrator.spec.errors import SpecError
from orchestrator.spec.search_space import Search, SearchSpace
from orchestrator.sweep.search.quasirandom import value_at
from orchestrator.sweep.space.arms import ExpandedArm, expand_arms

MORRIS_LEVELS = 4


class BadDesign(SpecError):
    """A design that cannot be made, or values that do not belong to it."""


@dataclass(frozen=True)
class Design:
    """Points to run, in order. A block (Sobol) or trajectory (Morris) is complete or it tells nothing."""

    kind: Literal["sobol", "morris"]
    axes: Mapping[str, Axis]
    unit: tuple[tuple[float, ...], ...]
    """The same points in the unit cube."""
    points: tuple[Mapping[str, Any], ...]
    block: int
    """Points a block or trajectory."""


def sobol_design(axes: Mapping[str, Axis], blocks: int, seed: int = 0) -> Design:
    """Saltelli's design (2002) on a scrambled Sobol sequence: ``blocks * (2 k + 2)`` points of k parameters.

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
    """Morris's one-at-a-time trajectories (1991) on four levels: ``trajectories * (k + 1)`` points of k parameters.

    Raises:
        BadDesign: fewer than two parameters or trajectories.
    """
    if trajectories < 2:
        raise BadDesign("search.trajectories", f"must be 2 or more, found {trajectories}")
    unit = morris_sample.sample(problem(axes), trajectories, num_levels=MORRIS_LEVELS, seed=seed)
    return _design("morris", axes, unit.tolist(), len(axes) + 1)


def design_of(space: SearchSpace) -> Design:
    """The design that a search space with ``search: sobol`` or ``morris`` stands for, over all its axes but the seed.

    Raises:
        BadDesign: several arms, another search, or a number of blocks or trajectories that is missing or cannot be.
    """
    return _design_of(space.search, expand_arms(space))


def design_points(search: Search, arms: Sequence[ExpandedArm]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index of the arm and a point of its axes: every point of the design, once for every seed of a `seed` axis.

    Raises:
        SpecError: see `design_of`; or a seed axis that is no list.
    """
    design, arm = _design_of(search, arms), arms[0]
    seeds = arm.axes.get("seed", [None])
    if not isinstance(seeds, list):
        raise SpecError(arm.axis_sources["seed"], "a design repeats each point for a list of seeds, found a range")
    for point in design.points:
        for seed in seeds:
            yield 0, {name: seed if name == "seed" else point[name] for name in arm.axes}


def problem(axes: Mapping[str, Axis]) -> dict[str, Any]:
    """The unit cube of the axes, as SALib describes it; raises :class:`BadDesign` for fewer than two."""
    if len(axes) < 2:
        raise BadDesign("axes", f"a design needs two parameters or more, found {list(axes)}")
    return {"num_vars": len(axes), "names": list(axes), "bounds": [[0.0, 1.0]] * len(axes)}


def _design_of(search: Search, arms: Sequence[ExpandedArm]) -> Design:
    if len(arms) > 1:
        found = ", ".join(arm.label for arm in arms)
        raise BadDesign("arms", f"a {search.name} design is over the axes of one arm, found {len(arms)}: {found}")
    axes = {name: axis for name, axis in arms[0].axes.items() if name != "seed"}
    if search.name == "sobol":
        return sobol_design(axes, _given(search.blocks, "blocks", "a power of 2"), search.seed)
    if search.name == "morris":
        return morris_design(axes, _given(search.trajectories, "trajectories", "2 or more"), search.seed)
    raise BadDesign("search.name", f"is no design: must be sobol or morris, found {search.name!r}")


def _given(count: int | None, name: str, what: str) -> int:
    if count is None:
        raise BadDesign(f"search.{name}", f"is missing: the design needs a number, {what}")
    return count


def _design(kind: Literal["sobol", "morris"], axes: Mapping[str, Axis], unit: list[list[float]], block: int) -> Design:
    lines = tuple(tuple(line) for line in unit)
    points = tuple(
        {name: value_at(axis, u) for (name, axis), u in zip(axes.items(), line, strict=True)} for line in lines
    )
    return Design(kind, axes, lines, points, block)
