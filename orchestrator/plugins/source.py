"""What the source of a plug-in says about it, read without importing it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from orchestrator.plugins.definitions import (
    Definition,
    Undefined,
    UnknownName,
    base_definition,
    definition,
    is_external,
    module_source,
)


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
def describe(name: str, target: str, supplied: frozenset[str]) -> Description:
    module, _, attribute = target.partition(":")
    module_source(module)
    plugin = definition(module, attribute)
    if not isinstance(plugin, Definition):
        if isinstance(plugin, Undefined) and plugin.module:
            module_source(plugin.module)
        raise UnknownName(f"module {module!r} has no class or function {attribute!r}")
    node = plugin.node
    doc = ast.get_docstring(node) or ""
    if isinstance(node, ast.ClassDef):
        fields, attributes = _class_fields(plugin)
        return Description(name, target, doc, tuple(fields.values()), attributes)
    return Description(
        name,
        target,
        doc,
        tuple(p for p in _arguments(node) if p.name not in supplied),
        open_ended=node.args.kwarg is not None,
    )


def _class_fields(plugin: Definition) -> tuple[dict[str, Parameter], dict[str, Any]]:
    """Return dataclass fields and literal `ClassVar`s, bases first; annotations of a class without decorator are
    neither."""
    fields: dict[str, Parameter] = {}
    attributes: dict[str, Any] = {}
    for ancestor in reversed(_ancestors(plugin).classes):
        _add_fields(ancestor.node, fields, attributes)
    return fields, attributes


def _add_fields(node: ast.ClassDef | ast.FunctionDef, fields: dict[str, Parameter], attributes: dict[str, Any]) -> None:
    """Add the fields and `ClassVar`s that a class states itself to those of its bases."""
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


@cache
def unimplemented(target: str, base: str) -> str:
    """Return why a plug-in cannot be a ``base``; empty where it can, or where the sources do not tell."""
    plugin, required = (definition(*name.split(":")) for name in (target, base))
    assert isinstance(required, Definition), base
    if not isinstance(plugin, Definition) or not isinstance(plugin.node, ast.ClassDef):
        return f"is a function, not a class that inherits {base}"
    ancestors = _ancestors(plugin)
    if ancestors.unreadable:
        return f"has a base {ancestors.unreadable[0]!r} that cannot be read"
    if not ancestors.complete:
        return ""
    if required not in ancestors.classes:
        return f"does not inherit {base}"
    implemented = {name for ancestor in ancestors.classes if ancestor != required for name in _functions(ancestor)}
    missing = [name for name, abstract in _functions(required).items() if abstract and name not in implemented]
    return f"does not implement {', '.join(missing)}" if missing else ""


@dataclass(frozen=True)
class _Ancestors:
    """A class and those it inherits, as far as sources tell."""

    classes: tuple[Definition, ...]
    """In the order in which attributes are looked up."""
    unreadable: tuple[str, ...] = ()
    """The bases, as written, that should have a source and have none."""
    complete: bool = True
    """Whether `classes` are all; not so with a base of the standard library or of another installed package."""


def _ancestors(derived: Definition, descendants: tuple[Definition, ...] = ()) -> _Ancestors:
    classes, unreadable, complete = [derived], list[str](), True
    assert isinstance(derived.node, ast.ClassDef)
    descendants = (*descendants, derived)
    for base in derived.node.bases:
        referent = base_definition(derived, base)
        if isinstance(referent, Definition) and isinstance(referent.node, ast.ClassDef) and referent not in descendants:
            inherited = _ancestors(referent, descendants)
            # A class that several bases inherit is looked up after all of them.
            classes = [c for c in classes if c not in inherited.classes] + list(inherited.classes)
            unreadable += inherited.unreadable
            complete = complete and inherited.complete
        elif not isinstance(referent, Undefined) or not is_external(referent, derived):
            unreadable.append(ast.unparse(base))
        elif ast.unparse(base) != "object":
            complete = False
    return _Ancestors(tuple(classes), tuple(unreadable), complete)


def _functions(owner: Definition) -> dict[str, bool]:
    """Return the names of a class's own functions, and whether each is abstract."""
    return {
        item.name: any(ast.unparse(decorator).endswith("abstractmethod") for decorator in item.decorator_list)
        for item in owner.node.body
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
