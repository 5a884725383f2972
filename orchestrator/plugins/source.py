"""What the source of a plug-in says about it, read without importing it."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from orchestrator.spec.errors import PrunesweepError


class UnknownName(PrunesweepError, KeyError):
    """A name that no table holds, or a plug-in whose source cannot be read; the message says what would be right."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnusablePlugin(UnknownName):
    """A name whose plug-in is not what its table holds; the message names the target and what is missing."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a plug-in as its source states it."""

    name: str
    annotation: str
    default: Any = ...
    """`...` where the plug-in has no default."""
    doc: str = field(default="", compare=False)
    """The docstring under the field of a class."""


@dataclass(frozen=True)
class Description:
    """What the source of a plug-in says about it, read without importing it."""

    name: str
    target: str
    doc: str
    parameters: tuple[Parameter, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """The `ClassVar`s with literal values, own and inherited."""
    open_ended: bool = False
    """The plug-in takes `**params`: names cannot be checked beforehand."""

    @property
    def summary(self) -> str:
        """The first line of the documentation."""
        return self.doc.strip().split("\n", 1)[0]


@cache
def _module_source(module: str) -> ast.Module:
    """Return the syntax tree of a module, found without importing its parents (which might import torch)."""
    top, *inner = module.split(".")
    # Finding a top-level package runs no code of it, and sees editable installs too; its inner modules are then
    # looked up in its folders, because asking for them by name would import their parents.
    spec = importlib.util.find_spec(top)
    name = top
    for part in inner:
        name += f".{part}"
        folders = spec.submodule_search_locations if spec else None
        spec = importlib.machinery.PathFinder.find_spec(name, list(folders)) if folders else None
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
def describe(name: str, target: str, supplied: frozenset[str]) -> Description:
    module, _, attribute = target.partition(":")
    node = _definition(module, attribute)
    if node is None:
        raise UnknownName(f"module {module!r} has no class or function {attribute!r}")
    doc = ast.get_docstring(node) or ""
    defined = _definition_from(module, attribute)
    if defined is not None:
        fields, attributes = _class_fields(*defined)
        return Description(name, target, doc, tuple(fields.values()), attributes)
    assert isinstance(node, ast.FunctionDef)
    return Description(
        name,
        target,
        doc,
        tuple(p for p in _arguments(node) if p.name not in supplied),
        open_ended=node.args.kwarg is not None,
    )


def _definition(module: str, attribute: str) -> ast.ClassDef | ast.FunctionDef | None:
    for node in _module_source(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return node
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == attribute:
                    return _definition(node.module, alias.name)
    return None


def _class_fields(module: str, node: ast.ClassDef) -> tuple[dict[str, Parameter], dict[str, Any]]:
    """Return dataclass fields and literal `ClassVar`s, bases first; annotations of a class without decorator are
    neither."""
    fields: dict[str, Parameter] = {}
    attributes: dict[str, Any] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            definition = _definition_from(module, base.id)
            if definition is not None:
                inherited, inherited_attributes = _class_fields(*definition)
                fields |= inherited
                attributes |= inherited_attributes
    for item, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name) and item.targets[0].id in attributes:
            # A plain assignment to a class variable of a base.
            attributes[item.targets[0].id] = _literal(item.value, f"{node.name}.{item.targets[0].id}")
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        annotation = ast.unparse(item.annotation)
        key = item.target.id
        if annotation.startswith("ClassVar"):
            fields.pop(key, None)
            if item.value is not None:
                attributes[key] = _literal(item.value, f"{node.name}.{key}")
        elif node.decorator_list:
            attributes.pop(key, None)
            default = ... if item.value is None else _literal(item.value, f"{node.name}.{key}")
            fields[key] = Parameter(key, annotation, default, _docstring(following))
    return fields, attributes


def _definition_from(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Return the class a name refers to and the module that defines it; None where the source does not tell."""
    try:
        body = _module_source(module).body
    except UnknownName:
        return None
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definition_from(node.module, alias.name)
    return None


@cache
def unimplemented(target: str, base: str) -> str:
    """Return what a plug-in lacks to be a ``base``; empty where it lacks nothing, or where the sources do not tell."""
    plugin, required = (_definition_from(*name.split(":")) for name in (target, base))
    assert required is not None, base
    if plugin is None:
        return f"is a function, not a class that inherits {base}"
    ancestors, complete = _ancestors(*plugin)
    if not complete:
        return ""
    if required not in ancestors:
        return f"does not inherit {base}"
    implemented = {name for ancestor in ancestors if ancestor != required for name in _functions(ancestor[1])}
    missing = [name for name, abstract in _functions(required[1]).items() if abstract and name not in implemented]
    return f"does not implement {', '.join(missing)}" if missing else ""


def _ancestors(module: str, node: ast.ClassDef) -> tuple[list[tuple[str, ast.ClassDef]], bool]:
    """Return a class and those it inherits, with their modules, and whether the sources name all of them."""
    ancestors, complete = [(module, node)], True
    for base in node.bases:
        defined = _definition_from(module, base.id) if isinstance(base, ast.Name) else None
        if defined is None:
            complete = complete and isinstance(base, ast.Name) and base.id == "object"
            continue
        inherited, known = _ancestors(*defined)
        ancestors, complete = ancestors + inherited, complete and known
    return ancestors, complete


def _functions(node: ast.ClassDef) -> dict[str, bool]:
    """Return the names of a class's own functions, and whether each is abstract."""
    return {
        item.name: any(ast.unparse(decorator).endswith("abstractmethod") for decorator in item.decorator_list)
        for item in node.body
        if isinstance(item, ast.FunctionDef)
    }


def _literal(value: ast.expr, name: str) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        raise UnknownName(f"{name} must be a literal, as plug-ins are read without being imported") from None


def _docstring(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def _arguments(node: ast.FunctionDef) -> list[Parameter]:
    parameters: list[Parameter] = []
    positional = node.args.posonlyargs + node.args.args
    missing = len(positional) - len(node.args.defaults)
    defaults: list[ast.expr | None] = [None] * missing + list(node.args.defaults)
    pairs = list(zip(positional, defaults, strict=True)) + list(
        zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    )
    for argument, default in pairs:
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        value = ... if default is None else _literal(default, f"{node.name}({argument.arg})")
        parameters.append(Parameter(argument.arg, annotation, value))
    return parameters
