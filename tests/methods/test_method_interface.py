"""What a class must have to be used as a method: found in its source, or when it is loaded."""

from pathlib import Path

import pytest

from orchestrator.methods import METHODS
from orchestrator.plugins import Registry, UnusablePlugin
from orchestrator.testing.methods import decide

HEAD = """
from collections import UserDict
from dataclasses import dataclass
import orchestrator.methods.base as base
from orchestrator.methods.base import Method
"""
SCORES = "def scores(self, model, task): return {}"


def registry(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> Registry:
    """A table with the method `own`, which is `Own` of a module with this source."""
    (folder / f"{name}.py").write_text(HEAD + source)
    monkeypatch.syspath_prepend(folder)
    return Registry("method", "nowhere", {"own": f"{name}:Own"}, base=METHODS.base)


@pytest.mark.parametrize(
    ("name", "source", "problem"),
    [
        ("bare_class", f"class Own:\n    {SCORES}", "does not inherit orchestrator.methods.base:Method"),
        ("no_scores", "class Own(Method):\n    def select(self): ...", "does not implement scores"),
        ("attribute_scores", "class Own(base.Method): ...", "does not implement scores"),
        ("attribute_base", "class Own(base.PruneTask): ...", "does not inherit orchestrator.methods.base:Method"),
        ("factory", "def Own(): ...", "is a function, not a class that inherits orchestrator.methods.base:Method"),
    ],
)
def test_the_source_tells_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str, problem: str
) -> None:
    table = registry(tmp_path, monkeypatch, name, source)
    with pytest.raises(UnusablePlugin) as refused:
        table.parameters("own")
    assert str(refused.value) == f"method 'own' ({name}:Own) {problem}"


@pytest.mark.parametrize(
    ("name", "source", "problem"),
    [
        ("hidden_scores", "class Own(UserDict, Method): ...", "does not implement scores"),
        ("hidden_base", "class Own(UserDict): ...", "does not inherit orchestrator.methods.base:Method"),
    ],
)
def test_what_the_source_does_not_tell_is_found_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str, problem: str
) -> None:
    table = registry(tmp_path, monkeypatch, name, source)
    assert table.describe("own").name == "own"
    with pytest.raises(UnusablePlugin) as refused:
        table.load("own")
    assert str(refused.value) == f"method 'own' ({name}:Own) {problem}"


def test_scores_may_come_from_a_base_and_undecorated_annotations_are_no_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = f"class Scored(Method):\n    note: int = 3\n    {SCORES}"
    source = f"{base}\n@dataclass\nclass Own(Scored):\n    power: float = 2.0"
    table = registry(tmp_path, monkeypatch, "inherited_scores", source)
    assert [parameter.name for parameter in table.describe("own").parameters] == ["power"]
    own = table.load("own")(power=1.0)
    assert (own.sparse_epochs, own.sparse_lr) == (None, None)


STATEFUL = """
from typing import ClassVar
from orchestrator.methods.base import filter_norms

@dataclass
class Own(Method):
    trains: ClassVar[bool] = True

    def prepare(self, model, task):
        self.names = [group.name for group in task.groups]

    def scores(self, model, task):
        return {group.name: filter_norms(model, group, power=1) for group in task.groups}

    def reselect(self, selection, scores):
        assert self.names
        return selection
"""


def test_what_only_the_trained_instance_knows_fails_in_the_suite_as_in_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = registry(tmp_path, monkeypatch, "stateful", STATEFUL)
    with pytest.raises(AttributeError, match="names"):
        decide(table, "own", "chain", "channels")
