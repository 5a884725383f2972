"""Names of torchvision's architectures, read from its source so that planning does not import torchvision."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path


@cache
def architectures() -> frozenset[str]:
    """Return all classification networks that ``torchvision.models.get_model`` builds; none without torchvision."""
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return frozenset()
    folder = Path(package.submodule_search_locations[0]) / "models"
    names = set()
    for source in folder.glob("*.py"):
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(_registers(d) for d in node.decorator_list):
                names.add(node.name)
    return frozenset(names)


def _registers(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Name) and called.id == "register_model"
