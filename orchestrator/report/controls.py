"""Add the controls of a fair comparison to a search space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.report.checklist import RANDOM, magnitude
from orchestrator.report.data import FEWEST_SEEDS
from orchestrator.spec.axes import Axis, Range
from orchestrator.spec.search_space import Arm, SearchSpace
from orchestrator.sweep.planning import plan

DENSE = "dense_control"


def with_controls(space: SearchSpace) -> SearchSpace:
    """Return the search space with arms added for the dense, random and magnitude controls that it lacks.

    Controls get the same sparsities of the same quantities as the sweep's targets; seeds are added up to three.

    Raises:
        SpecError: the search space is invalid, with or without the controls.
    """
    methods_at: dict[str, dict[float, set[str]]] = {}
    for trial in plan(space).trials:
        target = trial.spec.target
        if target.sparsity is not None:
            methods_at.setdefault(target.quantity, {}).setdefault(target.sparsity, set()).add(trial.spec.method.name)
    arms = []
    if methods_at and not any(0.0 in sparsities for sparsities in methods_at.values()):
        # With nothing removed the quantity does not matter: one dense control serves all.
        arms.append(_arm("random", next(iter(methods_at)), [0.0], name=DENSE))
    for quantity, sparsities in methods_at.items():
        for controls in (RANDOM, magnitude(quantity)):
            missing = [s for s, methods in sorted(sparsities.items()) if s > 0 and not methods & set(controls)]
            if missing:
                arms.append(_arm(controls[0], quantity, missing))
    # Two arms of one name would be drawn as one line: a control whose name is taken gets a suffix.
    taken = {arm.label for arm in space.arms}
    named = [arm if arm.label not in taken else arm.model_copy(update={"name": f"{arm.label}_control"}) for arm in arms]
    added = space.model_copy(update={"arms": [*space.arms, *named], "axes": _seeded(space.axes)})
    if not space.arms and named:
        # In a space without arms the base is the only arm; keep it as an arm beside the controls.
        added = added.model_copy(update={"arms": [Arm(name="base"), *named]})
    plan(added)
    return added


def _arm(method: str, quantity: str, sparsities: list[float], name: str | None = None) -> Arm:
    overrides: Mapping[str, Any] = {"method": method, "target": {"quantity": quantity}}
    return Arm(name=name, axes={"target.sparsity": sparsities}, overrides=dict(overrides))


def _seeded(axes: Mapping[str, Axis]) -> dict[str, Axis]:
    given = axes.get("seed", [])
    if isinstance(given, Range) or len(given) >= FEWEST_SEEDS:
        return dict(axes)
    fresh = [seed for seed in range(FEWEST_SEEDS + len(given)) if seed not in given]
    return {**axes, "seed": [*given, *fresh[: FEWEST_SEEDS - len(given)]]}
