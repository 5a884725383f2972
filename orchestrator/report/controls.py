"""A search space with the controls added that a fair comparison needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.report.checklist import RANDOM, magnitude
from orchestrator.report.data import FEWEST_SEEDS
from orchestrator.spec.search_space import Arm, Axis, Range, SearchSpace
from orchestrator.sweep.planning import plan

DENSE = "dense_control"


def with_controls(space: SearchSpace) -> SearchSpace:
    """The search space with arms for the dense, the random and the magnitude control where they are missing.

    Controls get the shares that the sweep asks for, of the same quantities; seeds are filled up to three.

    Raises:
        SpecError: the search space, or the one with controls, cannot be used.
    """
    asked: dict[str, dict[float, set[str]]] = {}
    for trial in plan(space).trials:
        target = trial.spec.target
        if target.sparsity is not None:
            asked.setdefault(target.quantity, {}).setdefault(target.sparsity, set()).add(trial.spec.method.name)
    arms = []
    if asked and not any(0.0 in shares for shares in asked.values()):
        # Nothing removed is the same network whatever is counted.
        arms.append(_arm("random", next(iter(asked)), [0.0], name=DENSE))
    for quantity, shares in asked.items():
        for methods in (RANDOM, magnitude(quantity)):
            lacking = [share for share, present in sorted(shares.items()) if share > 0 and not present & set(methods)]
            if lacking:
                arms.append(_arm(methods[0], quantity, lacking))
    # An arm of one method and other axes would not be one line in a figure: a control of its own has a name of its own.
    taken = {arm.label for arm in space.arms}
    named = [arm if arm.label not in taken else arm.model_copy(update={"name": f"{arm.label}_control"}) for arm in arms]
    added = space.model_copy(update={"arms": [*space.arms, *named], "axes": _seeded(space.axes)})
    if not space.arms and named:
        # Without arms the base is the only one; it must stay one when others come.
        added = added.model_copy(update={"arms": [Arm(name="base"), *named]})
    plan(added)
    return added


def _arm(method: str, quantity: str, shares: list[float], name: str | None = None) -> Arm:
    overrides: Mapping[str, Any] = {"method": method, "target": {"quantity": quantity}}
    return Arm(name=name, axes={"target.sparsity": shares}, overrides=dict(overrides))


def _seeded(axes: Mapping[str, Axis]) -> dict[str, Axis]:
    given = axes.get("seed", [])
    if isinstance(given, Range) or len(given) >= FEWEST_SEEDS:
        return dict(axes)
    fresh = [seed for seed in range(FEWEST_SEEDS + len(given)) if seed not in given]
    return {**axes, "seed": [*given, *fresh[: FEWEST_SEEDS - len(given)]]}
