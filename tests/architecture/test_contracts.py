"""The import contracts refuse what nobody thought of: files added to a copy of the package are named by the linter."""

from __future__ import annotations

import ast
import itertools
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {
    "ray": ("sweep.cluster",),
    "optuna": ("sweep.search.adaptive", "analysis.sensitivity"),
    "mlflow": ("records.mlflow",),
    "torch_pruning": ("surgery",),
    "plotly": ("report",),
}
"""Libraries, and the only packages whose files may import them."""
TORCH_FREE_SWEEP = ("space", "search", "stopping", "planning", "driver", "maintenance")
TORCH_FREE = (
    *("spec", "storage", "plugins", "records", "analysis", "report"),
    *(f"sweep.{name}" for name in TORCH_FREE_SWEEP),
)
"""Packages and modules that must not reach torch, directly or through others."""
FORMS = (
    "import {library}\n",
    "import {library}.some.part as part\n",
    "from {library} import something\n",
    "def later():\n    from {library}.some import part\n    return part\n",
    "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import {library}\n",
)
"""Ways to write an import."""
LAYERS = (
    *("cli", "testing", "report", "analysis", "sweep", "records", "trial", "methods", "retrain"),
    *("surgery", "metrics", "training", "models", "storage", "spec"),
)
"""Packages from the top down: each may import those below. `data` stands beside `models`; `plugins` is a module."""
ROOMS = ("maintenance", "cluster", "worker", "driver", "stopping", "search", "space")
"""The same inside `sweep`."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contracts, to be spoilt."""
    shutil.copytree(ROOT / "orchestrator", tmp_path / "orchestrator", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> tuple[int, str]:
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", script, "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def refused(output: str) -> set[tuple[str, str]]:
    """Importer and imported of every import that the linter names."""
    return {(a, b) for a, b in re.findall(r"(orchestrator\S*)\s+->\s+(\S+)\s+\(l\.", output)}


def unlisted(output: str) -> set[str]:
    """Modules that the linter says no layer lists."""
    return set(re.findall(r"^- (orchestrator\S*)$", output, flags=re.MULTILINE))


def packages(folder: Path) -> list[str]:
    """Dotted names of all packages below `orchestrator`."""
    inits = sorted((folder / "orchestrator").rglob("__init__.py"))
    return [".".join(path.parent.relative_to(folder).parts) for path in inits]


def below(module: str, allowed: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"orchestrator.{name}.") for name in allowed)


def write(folder: Path, module: str, text: str) -> None:
    path = folder.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_a_library_is_refused_in_every_package_that_may_not_import_it(copy: Path) -> None:
    """A new file in every package, a new package, and each library by one of the ways to write an import."""
    draw = random.Random(11)
    write(copy, "orchestrator.sweep.driver.novel.__init__", '"""A new package inside a listed one."""\n')
    must, may = set(), set()
    for package in packages(copy):
        for library in (*MAY_IMPORT, "torch"):
            free = not below(package, TORCH_FREE) if library == "torch" else below(package, MAY_IMPORT[library])
            module = f"{package}.stray_{library}"
            write(copy, module, draw.choice(FORMS).format(library=library))
            (may if free else must).add((module, library))
    for module in ("orchestrator.plugins", "orchestrator.sweep.planning"):
        path = copy.joinpath(*module.split(".")).with_suffix(".py")
        if path.exists():
            path.write_text(path.read_text() + "\nimport torch\n")
            must.add((module, "torch"))
    code, output = lint(copy)
    assert code == 1, output
    assert len(must) > 200
    assert sorted(must - refused(output)) == []
    # A contract that refused everything would hold nothing.
    assert sorted(may & refused(output)) == []
    assert {library for _, library in may} == {*MAY_IMPORT, "torch"}


def test_torch_is_refused_through_another_package(copy: Path) -> None:
    rooms = [package for package in packages(copy) if below(package, TORCH_FREE)]
    allowed = [package for package in rooms if not below(package, ("spec", "storage"))]
    for package in allowed:
        write(copy, f"{package}.stray", "from orchestrator.training.loop import train\n")
    code, output = lint(copy)
    assert code == 1
    assert {(f"{package}.stray", "orchestrator.training.loop") for package in allowed} <= refused(output)


def test_an_import_of_an_upper_layer_is_refused(copy: Path) -> None:
    must = set()
    for prefix, layers in (("orchestrator", LAYERS), ("orchestrator.sweep", ROOMS)):
        for upper, lower in itertools.pairwise(layers):
            write(copy, f"{prefix}.{upper}.target", "VALUE = 1\n")
            write(copy, f"{prefix}.{lower}.stray", f"from {prefix}.{upper}.target import VALUE\n")
            must.add((f"{prefix}.{lower}.stray", f"{prefix}.{upper}.target"))
    code, output = lint(copy)
    assert code == 1
    assert sorted(must - refused(output)) == []


def test_a_package_that_no_layer_lists_is_refused(copy: Path) -> None:
    write(copy, "orchestrator.novel.__init__", '"""A new package."""\n')
    write(copy, "orchestrator.stray", '"""A new module."""\n')
    write(copy, "orchestrator.sweep.novel.__init__", '"""A new package of sweeps."""\n')
    write(copy, "orchestrator.sweep.stray", '"""A new module of sweeps."""\n')
    code, output = lint(copy)
    assert code == 1
    assert unlisted(output) == {
        "orchestrator.novel",
        "orchestrator.stray",
        "orchestrator.sweep.novel",
        "orchestrator.sweep.stray",
    }


def test_a_cycle_is_refused_at_any_depth(copy: Path) -> None:
    write(copy, "orchestrator.methods.learned.gal.first", "from orchestrator.methods.learned.gal import second\n")
    write(copy, "orchestrator.methods.learned.gal.second", "from orchestrator.methods.learned.gal import first\n")
    code, output = lint(copy)
    assert code == 1
    assert "No cycle at any depth BROKEN" in output


def test_what_the_linter_of_imports_cannot_see_is_refused_by_ruff(copy: Path) -> None:
    """Folders without ``__init__.py`` and imports by name are invisible to import-linter."""
    (copy / "orchestrator/report/novel").mkdir()
    (copy / "orchestrator/report/novel/hidden.py").write_text('"""A module."""\n')
    (copy / "orchestrator/spec/by_name.py").write_text(
        '"""A module."""\n\nfrom importlib import import_module\n\nray = import_module("ray")\n'
    )
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "orchestrator"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "novel/hidden.py:1:1: INP001" in done.stdout
    assert "spec/by_name.py:3:23: TID251" in done.stdout


def test_the_builtin_import_is_not_called() -> None:
    for path in (ROOT / "orchestrator").rglob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not names & {"__import__", "exec"}, path
