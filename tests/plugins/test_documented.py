"""The metric and the search of docs/extending.md keep the promises of their tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.planning import plan
from orchestrator.testing.metrics import MetricSuite
from orchestrator.testing.searches import SearchSuite

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
MODULES = dict(re.findall(r'```python title="(my_metrics|my_searches)\.py"\n(.*?)```', GUIDE, re.DOTALL))


@pytest.fixture(autouse=True)
def _modules(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("own")
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)


class TestWidestLayer(MetricSuite):
    name = "my_metrics:WidestLayer"


class TestSample(SearchSuite):
    name = "my_searches:Sample"
    parameters = {"per_arm": 4}  # noqa: RUF012

    def space(self, search_name: str, axes: object = None, **changes: object) -> SearchSpace:
        return super().space(search_name, {"target.sparsity": [0.25, 0.5], "seed": [0, 1, 2]}, **changes)


def test_both_are_planned() -> None:
    raw = {
        "name": "s",
        "base": {"model": "lenet5", "data": "digits", "target": {"sparsity": 0.5}},
        "axes": {"seed": [0, 1, 2]},
        "arms": ["l1_norm", "random"],
        "search": {"name": "my_searches:Sample", "per_arm": 2},
        "metrics": ["my_metrics:WidestLayer"],
        "objectives": {"accuracy": "max", "WidestLayer": "min"},
    }
    assert len(plan(SearchSpace.parse(raw)).trials) == 4
