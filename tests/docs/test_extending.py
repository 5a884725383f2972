"""The method of docs/extending.md, as a package of its own: listed, run in trials, and refused where it is broken."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPACE = """
name: own_method
base:
  model: lenet5
  data: {name: digits, size: 16}
  method: l2_norm
  baseline: {epochs: 0}
  retrain: {epochs: 0}
  target: {sparsity: 0.5}
axes:
  method.power: [1.0, 2.0]
"""
RUN = """
from pathlib import Path
from orchestrator import SearchSpace, plan, run_trial
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
trials = plan(SearchSpace.load("own.yaml")).trials
results = [run_trial(trial.spec, Workspace(Store.open("runs"), "own_method")) for trial in trials]
print([(result.status, result.error) for result in results])
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The files of the guide, and the metadata that installing them would leave."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```', text, re.MULTILINE | re.DOTALL))
    for name in ("l2_norm.py", "pyproject.toml", "test_l2_norm.py"):
        (tmp_path / name).write_text(blocks[name])
    metadata = tmp_path / "l2_norm-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: l2-norm\nVersion: 0.1.0\n")
    lines = (
        blocks["pyproject.toml"].partition('[project.entry-points."orchestrator.methods"]\n')[2].partition("\n\n")[0]
    )
    (metadata / "entry_points.txt").write_text("[orchestrator.methods]\n" + lines.replace('"', "") + "\n")
    (tmp_path / "own.yaml").write_text(SPACE)
    return tmp_path


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=paths, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_method_is_listed_and_prunes(package: Path) -> None:
    listed = python(package, "-m", "orchestrator", "list", "methods", "--json")
    assert listed.returncode == 0, listed.stderr
    (entry,) = (entry for entry in json.loads(listed.stdout) if entry["name"] == "l2_norm")
    assert entry == {
        "name": "l2_norm",
        "what": "Filters with the smallest l2 norm are removed first.",
        "family": "l2_norm",
        "removes": "channels",
        "paper": "your source",
        "parameters": {"power": "float > 0 = 2.0"},
    }
    ran = python(package, "-c", RUN)
    assert ran.stdout.strip() == "[('done', None), ('done', None)]", ran.stderr


def test_the_suite_of_the_guide_passes(package: Path) -> None:
    tested = python(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_l2_norm.py")
    assert tested.returncode == 0, tested.stdout
    assert " passed" in tested.stdout


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("class L2Norm(Method):", "class L2Norm:", "does not inherit orchestrator.methods.base:Method"),
        ("def scores(", "def select(", "does not implement scores"),
    ],
)
def test_a_class_that_is_no_method_is_refused_by_plan_list_and_suite(
    package: Path, old: str, new: str, problem: str
) -> None:
    module = package / "l2_norm.py"
    module.write_text(module.read_text().replace(old, new))
    message = f"method 'l2_norm' (l2_norm:L2Norm) {problem}"
    planned = python(package, "-m", "orchestrator", "plan", "own.yaml")
    assert planned.returncode == 2
    assert f"base.method: {message}" in " ".join(planned.stderr.split())
    listed = python(package, "-m", "orchestrator", "list", "methods", "--json")
    (entry,) = (entry for entry in json.loads(listed.stdout) if entry["name"] == "l2_norm")
    assert entry["what"] == message
    tested = python(package, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "test_l2_norm.py")
    assert tested.returncode == 1
    assert f"UnusablePlugin: {message}" in tested.stdout
