"""Classes as their source states them: bases behind relative imports, attributes of modules and rebound names."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from orchestrator.methods import METHODS
from orchestrator.metrics.table import metric_rows
from orchestrator.plugins import Registry, UnknownName, UnusablePlugin
from orchestrator.records.parquet import load_table
from orchestrator.spec.errors import SpecError
from orchestrator.spec.metric import METRICS
from orchestrator.storage.sweep_paths import SweepPaths

MID = """
from dataclasses import dataclass
from typing import ClassVar
from orchestrator.methods.base import Method
from orchestrator.metrics.extra import ExtraMetric

@dataclass
class Mid(Method):
    trains: ClassVar[bool] = True
    power: float = 2.0

    def scores(self, model, task): return {}

class Depth(ExtraMetric):
    unit = "layers"
    def compute(self, networks): return 1.0
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    # Sources are read once a process: each test has a package of its own.
    folder = tmp_path / f"own_{abs(hash(request.node.name))}"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "inner" / "__init__.py").write_text("from ..basem import Mid as Reexported\n")
    (folder / "basem.py").write_text(MID)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("own", "from .basem import Mid\nclass Own(Mid): ..."),
        ("own", "from . import basem\nclass Own(basem.Mid): ..."),
        ("own", "import PACKAGE.basem as mx\nclass Own(mx.Mid): ..."),
        ("own", "import PACKAGE.basem\nclass Own(PACKAGE.basem.Mid): ..."),
        ("own", "from .inner import Reexported\nclass Own(Reexported): ..."),
        ("own", "from .basem import *\nclass Own(Mid): ..."),
        ("own", "from . import basem\nBase = basem.Mid\nclass Own(Base): ..."),
        ("own", "try:\n    from .basem import Mid\nexcept ImportError:\n    Mid = object\nclass Own(Mid): ..."),
        ("own", "from .basem import Mid as Own\nclass Own(Own): ..."),
        ("inner.own", "from ..basem import Mid\nclass Own(Mid): ..."),
        ("deep.__init__", "from ..basem import Mid\nclass Own(Mid): ..."),
        ("own", "import abc\nfrom .basem import Mid\nclass Own(Mid, abc.ABC): ..."),
    ],
)
def test_what_a_base_states_is_inherited_however_it_is_named(package: Path, module: str, source: str) -> None:
    path = package.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(source.replace("PACKAGE", package.name))
    description = METHODS.describe(f"{package.name}.{module.removesuffix('.__init__')}:Own")
    assert description.attributes["trains"] is True
    assert [parameter.name for parameter in description.parameters] == ["power"]


def test_attributes_are_looked_up_in_the_order_of_python(package: Path) -> None:
    source = """
from typing import ClassVar
from .basem import Mid
class Left(Mid): ...
class Right(Mid):
    trains: ClassVar[bool] = False
class Own(Left, Right): ...
class Other(Right, Left): ...
class First(Right): trains = 1
class Second(Right): trains = 2
class Both(First, Second): ...
"""
    (package / "own.py").write_text(source)
    trains = {n: METHODS.describe(f"{package.name}.own:{n}").attributes["trains"] for n in ("Own", "Other", "Both")}
    assert trains == {"Own": False, "Other": False, "Both": 1}


@pytest.mark.parametrize(
    ("source", "base"),
    [
        ("from .nowhere import Mid\nclass Own(Mid): ...", "Mid"),
        ("from . import nowhere\nclass Own(nowhere.Mid): ...", "nowhere.Mid"),
        ("from .....basem import Mid\nclass Own(Mid): ...", "Mid"),
        ("from .basem import Mid\ndef f(): return Mid\nclass Own(f()): ...", "f()"),
        ("class Own(Own): ...", "Own"),
        ("from .own import Other\nclass Own(Other): ...", "Other"),
        ("from .own import Own as Other\nclass Own(Other): ...", "Other"),
        ("from .nowhere import Mid\nclass Between(Mid): ...\nclass Own(Between): ...", "Mid"),
    ],
)
def test_a_base_that_cannot_be_read_is_refused(package: Path, source: str, base: str) -> None:
    (package / "own.py").write_text(source)
    target = f"{package.name}.own:Own"
    with pytest.raises(UnusablePlugin) as refused:
        METHODS.describe(target)
    assert str(refused.value) == f"method {target!r} ({target}) has a base {base!r} that cannot be read"
    anything = Registry("thing", "no.such.group", {}, open_names=True)
    assert anything.describe(target).parameters == ()


@pytest.mark.parametrize("base", ["nn.Module", "UserDict", "dict", "Generic[T]"])
def test_a_base_of_another_package_is_allowed(package: Path, base: str) -> None:
    head = "from collections import UserDict\nfrom typing import Generic, TypeVar\nfrom torch import nn\n"
    head += "from .basem import Mid\nT = TypeVar('T')\n"
    (package / "own.py").write_text(f"{head}class Own(Mid, {base}): ...")
    assert METHODS.describe(f"{package.name}.own:Own").attributes["trains"] is True


def test_a_module_without_a_specification_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    with pytest.raises(UnknownName, match=r"^no module named '__main__'$"):
        METHODS.describe("__main__:Mine")


def test_a_metric_inherits_its_row(package: Path) -> None:
    (package / "own.py").write_text(f"import {package.name}.basem as mx\nclass Deep(mx.Depth): ...\n")
    assert metric_rows([f"{package.name}.own:Deep"])["Deep"].unit == "layers"


def test_a_metric_that_may_be_none_is_refused(package: Path) -> None:
    (package / "own.py").write_text("from collections import UserDict\nclass Deep(UserDict): ...\n")
    with pytest.raises(SpecError, match=r"^metrics\[0\]: .* does not show that it inherits .*ExtraMetric$"):
        metric_rows([f"{package.name}.own:Deep"])


def test_no_column_of_every_trial_is_free_for_a_metric(package: Path, tmp_path: Path) -> None:
    paths = SweepPaths(tmp_path / "sweep")
    paths.searchspace.parent.mkdir(parents=True)
    paths.searchspace.touch()
    columns = set(load_table(tmp_path / "sweep").column_names) - METRICS.keys()
    assert {"latency_host", "target_sparsity", "seconds_retrain"} <= columns
    classes = [f"class M_{column}(Depth):\n    column = {column!r}\n" for column in columns]
    (package / "own.py").write_text("from .basem import Depth\n" + "\n".join(classes))
    for column in columns:
        with pytest.raises(SpecError, match=f"'{column}' cannot be the name of a column"):
            metric_rows([f"{package.name}.own:M_{column}"])
