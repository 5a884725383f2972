"""Plug-ins of the user's own, named as module:name in a search space, without any package being installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.plugins import Registry, UnknownName
from orchestrator.spec.errors import SpecError
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.planning import plan

OWN = '''
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from orchestrator.methods.base import Method
from orchestrator.metrics.extra import ExtraMetric
from orchestrator.plugins import Positive
from orchestrator.sweep.search.base import ArmPoint, FixedSearch
from orchestrator.sweep.stopping.rule import StoppingRule


@dataclass
class Ranks(Method):
    """Ranks by a power."""

    power: Positive = 2.0

    def scores(self, model, task):
        raise NotImplementedError


def pictures(*, side: int = 8):
    """Pictures."""


def steady(baseline, budget, *, factor: Positive = 1.0):
    """Always the same rate."""


@dataclass(frozen=True)
class Ends(FixedSearch):
    """The first and the last value of the first axis."""

    repeats: Annotated[int, Field(ge=1)] = 1

    def points(self, arms: Sequence) -> Iterator[ArmPoint]:
        for arm in arms:
            name, axis = next(iter(arm.axes.items()))
            yield from [(arm.index, {name: axis[0]}), (arm.index, {name: axis[-1]})] * self.repeats


@dataclass(frozen=True)
class Never(StoppingRule):
    """Stops nothing."""

    def shares(self):
        return (0.5,)

    def verdict(self, progress, others, space):
        return None


class Depth(ExtraMetric):
    """Modules of the pruned network."""

    label = "modules"
    higher_is_better = False

    def compute(self, networks):
        return len(list(networks.pruned.modules()))


class Note(ExtraMetric):
    """Its column would be that of the notes."""

    column = "note"


class Robustness(ExtraMetric):
    """Accuracy on test images with noise."""

    split = "test"
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    # Sources are read once a process: each test has a module of its own.
    name = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def space(module: str, **sections: object) -> SearchSpace:
    raw = {
        "name": "s",
        "base": {"model": "lenet5", "data": "digits", "method": "l1_norm", "target": {"sparsity": 0.5}},
        "axes": {"target.sparsity": [0.25, 0.5, 0.75]},
        **sections,
    }
    return SearchSpace.parse(raw)


def test_every_kind_may_be_named(module: str) -> None:
    planned = plan(
        space(
            module,
            base={
                "model": "lenet5",
                "data": {"name": f"{module}:pictures", "side": 16},
                "method": {"name": f"{module}:Ranks", "power": 3.0},
                "retrain": {"name": f"{module}:steady", "factor": 0.5, "epochs": 2},
            },
            search={"name": f"{module}:Ends", "repeats": 2},
            stopper=f"{module}:Never",
            metrics=[f"{module}:Depth"],
            objectives={"accuracy": "max", "Depth": "min"},
            constraints={"Depth": "<= 20"},
        )
    )
    assert [trial.spec.target.sparsity for trial in planned.trials] == [0.25, 0.75]
    assert planned.repeated == 2
    spec = planned.trials[0].spec
    assert spec.method.params == {"power": 3.0}
    assert spec.data.params == {"side": 16}
    assert spec.retrain.params == {"factor": 0.5}


def test_metrics_change_no_id(module: str) -> None:
    ids = [[t.trial_id for t in plan(space(module, metrics=named)).trials] for named in ([], [f"{module}:Depth"])]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"search": "MODULE:Nowhere"}, "search.name: module 'MODULE' has no class or function 'Nowhere'"),
        ({"search": "no_such_module:Search"}, "search.name: no module named 'no_such_module'"),
        ({"search": {"name": "MODULE:Ends", "repeets": 2}}, "search.repeets: unknown name 'repeets'; did you mean"),
        ({"search": {"name": "MODULE:Ends", "repeats": 0}}, "search.repeats: "),
        ({"search": "MODULE:Never"}, "search.name: 'MODULE:Never' is not derived from orchestrator.sweep.search"),
        ({"stopper": "MODULE:Ends"}, "stopper.name: stopper 'MODULE:Ends' (MODULE:Ends) does not inherit"),
        ({"stopper": {"name": "MODULE:Never", "x": 1}}, "stopper.x: unknown name 'x'"),
        ({"metrics": ["MODULE:Depht"]}, "metrics[0]: module 'MODULE' has no class or function 'Depht'"),
        ({"metrics": ["flops"]}, "metrics[0]: unknown metric 'flops'"),
        ({"metrics": ["MODULE:Ends"]}, "metrics[0]: metric 'MODULE:Ends' (MODULE:Ends) does not inherit"),
        ({"metrics": ["MODULE:Depth", "MODULE:Depth"]}, "metrics[1]: there is a metric 'Depth' already"),
        ({"metrics": ["MODULE:Note"]}, "metrics[0]: 'note' cannot be the name of a column, found it in 'MODULE:Note'"),
        ({"objectives": {"Depth": "min"}}, "objectives.Depth: unknown metric 'Depth'"),
        (
            {
                "metrics": ["MODULE:Robustness"],
                "search": {"name": "tpe", "trials": 3},
                "objectives": {"Robustness": "max"},
            },
            "objectives.Robustness: 'Robustness' is of the test set, which decides nothing",
        ),
        (
            {"metrics": ["MODULE:Depth"], "objectives": {"accuracy": "max", "Depth": "min"}, "stopper": "moasha"},
            "objectives.Depth: is not known while a trial runs",
        ),
    ],
)
def test_what_is_wrong_has_one_message(module: str, sections: dict[str, object], message: str) -> None:
    def named(value: object) -> object:
        if isinstance(value, str):
            return value.replace("MODULE", module)
        if isinstance(value, list):
            return [named(inner) for inner in value]
        return {key: named(inner) for key, inner in value.items()} if isinstance(value, dict) else value

    with pytest.raises(SpecError) as caught:
        plan(space(module, **named(sections)))  # type: ignore[arg-type]
    assert str(caught.value).startswith(message.replace("MODULE", module)), caught.value


def test_naming_imports_nothing(module: str, tmp_path: Path) -> None:
    """A method, a data set, a schedule and a metric are read and not imported: the module would bring torch in."""
    code = (
        "import sys; from orchestrator import SearchSpace, plan\n"
        f"plan(SearchSpace.parse({{'name': 's', 'metrics': ['{module}:Depth'], 'base': {{'model': 'lenet5',"
        f" 'data': '{module}:pictures', 'method': '{module}:Ranks', 'retrain': '{module}:steady',"
        " 'target': {'sparsity': 0.5}}}))\n"
        f"sys.exit(','.join({{'torch', '{module}'}} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [":x", "a:", "a b:c", "a:b:c", "a.:b"])
def test_what_is_no_name_is_refused(name: str) -> None:
    registry = Registry(kind="thing", group="no.such.group", table={}, open_names=True)
    with pytest.raises(UnknownName, match=r"^unknown thing .*'package\.module:name'"):
        registry.describe(name)


def test_a_module_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_broken_source.py").write_text("class Broken(:\n")
    (tmp_path / "own_computed_default.py").write_text("def f(*, x: int = len('ab')):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry(kind="thing", group="no.such.group", table={}, open_names=True)
    with pytest.raises(UnknownName, match="'own_broken_source' cannot be read"):
        registry.describe("own_broken_source:Broken")
    with pytest.raises(UnknownName, match=r"f\(x\) must be a literal"):
        registry.describe("own_computed_default:f")
