"""Definitions of classes and functions by name, followed through imports in the source, without importing anything."""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from orchestrator.spec.errors import PrunesweepError


class UnknownName(PrunesweepError, KeyError):
    """A name that no table holds, or a plug-in whose source cannot be read; the message says what would be right."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Definition:
    """A class or a function in the source of a module."""

    module: str
    node: ast.ClassDef | ast.FunctionDef
    position: int
    """Its index among the module's statements; its bases are bound before it."""


@dataclass(frozen=True)
class Module:
    """A module that a name refers to."""

    name: str


@dataclass(frozen=True)
class Undefined:
    """A name without a definition that can be read; `module` is where the search for it ended."""

    module: str


Referent = Definition | Module | Undefined


def definition(module: str, name: str) -> Referent:
    """Return what a name of a module refers to once the module is imported."""
    return _bound(module, name, None, frozenset())


def base_definition(derived: Definition, base: ast.expr) -> Referent:
    """Return what an expression among the bases of a class refers to."""
    return _referent(derived.module, base, derived.position, frozenset())


def is_external(undefined: Undefined, derived: Definition) -> bool:
    """Return whether a base is of the standard library or of an installed package other than the derived class's."""
    top = undefined.module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return True
    if top in (derived.module.partition(".")[0], "orchestrator"):
        return False
    spec = _spec(top) if top else None
    if spec is None:
        return False
    files = [spec.origin or "", *(spec.submodule_search_locations or ())]
    return any({"site-packages", "dist-packages"} & set(Path(file).parts) for file in files)


@cache
def module_source(module: str) -> ast.Module:
    """Return the syntax tree of a module, found without importing its parents (which might import torch)."""
    spec = _spec(module)
    if spec is None:
        raise UnknownName(f"no module named {module!r}")
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise UnknownName(f"module {module!r} has no Python source to read")
    try:
        with open(spec.origin, encoding="utf-8") as source:
            return ast.parse(source.read())
    except (OSError, ValueError, SyntaxError) as error:
        raise UnknownName(f"module {module!r} cannot be read: {error}") from None


@cache
def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    top, *inner = module.split(".")
    # Finding a top-level package runs no code of it, and sees editable installs too; its inner modules are then
    # looked up in its folders, because asking for them by name would import their parents.
    try:
        spec = importlib.util.find_spec(top)
    except (ValueError, ImportError):
        # A module without a specification, such as `__main__`.
        return None
    name = top
    for part in inner:
        name += f".{part}"
        folders = spec.submodule_search_locations if spec else None
        spec = importlib.machinery.PathFinder.find_spec(name, list(folders)) if folders else None
    return spec


@cache
def _statements(module: str) -> tuple[ast.stmt, ...]:
    """Return the statements of a module in order, those under `if` and `try` included; empty where there are none."""
    try:
        return tuple(_flattened(module_source(module).body))
    except UnknownName:
        return ()


def _flattened(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements such that, of alternatives, the first one written comes last and so is the one that counts."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _flattened(statement.orelse)
            yield from _flattened(statement.body)
        elif isinstance(statement, ast.Try):
            for handler in statement.handlers:
                yield from _flattened(handler.body)
            yield from _flattened([*statement.body, *statement.orelse, *statement.finalbody])
        else:
            yield statement


def _bound(module: str, name: str, before: int | None, visited: frozenset[tuple[str, str, int | None]]) -> Referent:
    """Return what a name refers to: its last binding before a statement, else a submodule of that name."""
    undefined = Undefined(module)
    key = (module, name, before)
    if key not in visited and module.partition(".")[0] not in sys.stdlib_module_names:
        for position, statement in reversed(list(enumerate(_statements(module)[:before]))):
            referent, certain = _binding(module, name, statement, position, visited | {key})
            if isinstance(referent, Undefined):
                undefined = referent
            elif referent is not None:
                return referent
            if certain:
                break
    submodule = f"{module}.{name}"
    return Module(submodule) if _spec(submodule) is not None else undefined


def _binding(
    module: str, name: str, statement: ast.stmt, position: int, visited: frozenset[tuple[str, str, int | None]]
) -> tuple[Referent | None, bool]:
    """Return what a statement binds a name to, or None, and whether it surely binds it."""
    match statement:
        case ast.ClassDef() | ast.FunctionDef() if statement.name == name:
            return Definition(module, statement, position), True
        case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
            return _referent(module, value, position, visited), True
        case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value) if target == name:
            return _referent(module, value, position, visited), True
        case ast.Import(names=aliases):
            for alias in aliases:
                if (alias.asname or alias.name.partition(".")[0]) == name:
                    return Module(alias.name if alias.asname else name), True
        case ast.ImportFrom(names=aliases):
            source = _imported_module(module, statement)
            for alias in aliases:
                if (alias.asname or alias.name) == name:
                    return _bound(source, alias.name, None, visited), True
                if alias.name == "*":
                    return _bound(source, name, None, visited), False
    return None, False


def _referent(
    module: str, expression: ast.expr, before: int, visited: frozenset[tuple[str, str, int | None]]
) -> Referent:
    """Return what an expression of a module refers to: a name, an attribute of a module, or either with a subscript."""
    match expression:
        case ast.Subscript(value=value):
            return _referent(module, value, before, visited)
        case ast.Name(id=name):
            referent = _bound(module, name, before, visited)
            is_builtin = isinstance(referent, Undefined) and hasattr(builtins, name)
            return Undefined("builtins") if is_builtin else referent
        case ast.Attribute(value=value, attr=name):
            owner = _referent(module, value, before, visited)
            if isinstance(owner, Module):
                return _bound(owner.name, name, None, visited)
            return owner if isinstance(owner, Undefined) else Undefined(module)
    return Undefined(module)


def _imported_module(module: str, statement: ast.ImportFrom) -> str:
    """Return the absolute name of the module that `from ... import` reads; empty beyond the top-level package."""
    if statement.level == 0:
        return statement.module or ""
    spec = _spec(module)
    is_package = spec is not None and spec.submodule_search_locations is not None
    parents = module.split(".")
    parents = parents[: len(parents) - statement.level + is_package]
    return ".".join([*parents, *([statement.module] if statement.module else [])]) if parents else ""
