"""Searches and stoppers of the user's own that are broken: a message, exit code 2, no trial is blamed."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.records.records import recorded_ids

SPACE = """
name: s
base:
  model: {nets}:tiny
  data: digits
  method: l1_norm
  target: {{quantity: params, sparsity: 0.5}}
  baseline: {{epochs: 1, batch_size: 256}}
  retrain: {{name: fine_tune, epochs: 2}}
axes:
  seed: [0, 1]
"""
NETS = """
from torch import nn

def tiny(num_classes, in_channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, 8), nn.ReLU(), nn.Linear(8, num_classes))
"""
IMPORTS = """
from dataclasses import dataclass

from orchestrator.sweep.search.base import AdaptiveSearch, FixedSearch
from orchestrator.sweep.stopping.rule import StoppingRule

"""
ADAPTIVE = {
    "import": ("1 / 0\nclass A(AdaptiveSearch):\n def start(self, *a): ...", "cannot be imported: division by zero"),
    "no start": ("class A(AdaptiveSearch): ...", "does not implement start"),
    "start": ("class A(AdaptiveSearch):\n def start(self, *a): raise ValueError('no')", "cannot start: ValueError: no"),
    "exit": ("class A(AdaptiveSearch):\n def start(self, *a): raise SystemExit(0)", "cannot start: SystemExit: 0"),
    "study": ("class A(AdaptiveSearch):\n def start(self, *a): return 1", "cannot draw a trial: AttributeError: 'int'"),
    "post init": (
        "@dataclass\nclass A(AdaptiveSearch):\n def start(self, *a): ...\n"
        " def __post_init__(self): raise ValueError('no')",
        "cannot be constructed: ValueError: no",
    ),
}
FIXED = {
    "no points": ("class A(FixedSearch): ...", "does not implement points"),
    "axis": ("class A(FixedSearch):\n def points(self, arms): yield 0, {'sed': 1}", "unknown axis 'sed'; did you mean"),
    "arm": ("class A(FixedSearch):\n def points(self, arms): yield 3, {}", "a point of arm 3; there are 1"),
    "no pair": ("class A(FixedSearch):\n def points(self, arms): yield 3", "cannot give its points: TypeError"),
    "raises": ("class A(FixedSearch):\n def points(self, arms): 1 / 0", "cannot give its points: ZeroDivisionError"),
    "no base": ("class A: ...", "not derived from orchestrator.sweep.search.base.FixedSearch, nor from AdaptiveSearch"),
    "post init": (
        "@dataclass\nclass A(FixedSearch):\n def points(self, arms): ...\n"
        " def __post_init__(self): raise ValueError('no')",
        "cannot be constructed: ValueError: no",
    ),
}
RULE = " def shares(self): return (0.5,)\n def verdict(self, *a): ...\n"
STOPPERS = {
    "no verdict": ("class A(StoppingRule):\n def shares(self): return (0.5,)", "does not implement verdict"),
    "shares": ("class A(StoppingRule):\n def shares(self): 1 / 0\n def verdict(self, *a): ...", "ZeroDivisionError"),
    "no shares": ("class A(StoppingRule):\n def shares(self): ...\n def verdict(self, *a): ...", "no usable rungs"),
    "too large": (
        "class A(StoppingRule):\n def shares(self): return (2,)\n def verdict(self, *a): ...",
        "no shares of the retraining: (2,)",
    ),
    "check": (
        f"class A(StoppingRule):\n{RULE} def check(self, space): 1 / 0",
        "check the search space: ZeroDiv",
    ),
    "post init": (
        f"@dataclass\nclass A(StoppingRule):\n{RULE} def __post_init__(self): raise ValueError('no')",
        "cannot be constructed: ValueError: no",
    ),
}
numbers = itertools.count()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def write(code: str, section: str) -> str:
    """Write a search space and the module that it names; return the module's name, which no earlier test used."""
    module = f"broken_plugin_{next(numbers)}"
    Path(f"{module}.py").write_text(IMPORTS + code)
    Path(f"{module}_nets.py").write_text(NETS)
    Path("s.yaml").write_text(SPACE.format(nets=f"{module}_nets") + section.format(module))
    return module


def refusal(command: str, *words: str) -> str:
    """Return the one line with which a command refuses the search space."""
    result = CliRunner().invoke(app, [command, "s.yaml", *words])
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.output
    assert not recorded_ids(Path("runs/s"))
    return line


@pytest.mark.parametrize("case", ADAPTIVE)
def test_an_adaptive_search_that_cannot_draw_is_an_error(case: str, home: Path) -> None:
    code, reason = ADAPTIVE[case]
    module = write(code, "search: {{name: '{}:A', trials: 2}}\n")
    line = refusal("run", "--address", "inline")
    assert "search.name: " in line
    assert f"{module}:A" in line
    assert reason in line


@pytest.mark.parametrize("case", FIXED)
def test_a_broken_fixed_search_is_refused_by_the_plan(case: str, home: Path) -> None:
    code, reason = FIXED[case]
    module = write(code, "search: '{}:A'\n")
    line = refusal("plan")
    assert "search.name: " in line
    assert f"{module}:A" in line
    assert reason in line


@pytest.mark.parametrize("case", STOPPERS)
def test_a_broken_stopper_is_refused_by_the_plan(case: str, home: Path) -> None:
    code, reason = STOPPERS[case]
    module = write(code, "stopper: '{}:A'\n")
    line = refusal("plan")
    assert "stopper.name: " in line
    assert f"{module}:A" in line
    assert reason in line


def test_a_stopper_that_raises_at_a_rung_ends_the_sweep_and_fails_no_trial(home: Path) -> None:
    module = write(
        "class A(StoppingRule):\n def shares(self): return (0.5,)\n def verdict(self, *a): 1 / 0", "stopper: '{}:A'\n"
    )
    line = refusal("run", "--address", "inline")
    assert line.startswith(f"error: stopper.name: '{module}:A' cannot judge trial ")
    assert line.endswith("at rung 0: ZeroDivisionError: division by zero")


def test_a_search_without_start_is_refused_by_the_plan(home: Path) -> None:
    module = write("class A(AdaptiveSearch): ...", "search: {{name: '{}:A', trials: 2}}\n")
    assert "does not implement start" in refusal("plan")
    assert module not in sys.modules
