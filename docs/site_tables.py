"""Make the tables of the site from the program at every build (an mkdocs hook), so that none goes stale."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import types
import typing
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from orchestrator.cli.catalogue import catalogue
from orchestrator.spec.axes import Range
from orchestrator.spec.search_space import Resources, Search, SearchSpace
from orchestrator.spec.trial import Baseline, Retrain, Target
from orchestrator.sweep.stopping import STOPPERS

_MARK = re.compile(r"^<!-- table: (?P<name>[a-z_ ]+) -->$", re.MULTILINE)
_BEYOND = {
    Target: [("plan", "text", "", "A published plan's name in place of a sparsity: the counts it keeps of this model.")]
}
"""What the file may say beyond the fields of the value that it becomes."""
_WITHIN = {Retrain: {"params"}, Search: {"params"}}
"""Fields that no file names: own parameters of a schedule or a search stand beside the others."""


class NoSuchTable(KeyError):
    """A page asks for a table that nobody makes."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page: marks become tables."""
    return filled(markdown)


def filled(markdown: str) -> str:
    """The text with a table under each ``<!-- table: name -->``; raises :class:`NoSuchTable`."""

    def replacement(mark: re.Match[str]) -> str:
        name = mark["name"]
        if name not in TABLES:
            raise NoSuchTable(f"no table {name!r}; there are {', '.join(TABLES)}")
        return TABLES[name]()

    return _MARK.sub(replacement, markdown)


def keys(model: type[BaseModel], path: str = "") -> list[tuple[str, str, str, str]]:
    """A row for each key: dotted path, values, default, meaning."""
    meanings = _docstrings(model)
    rows = []
    for name, field in model.model_fields.items():
        if name not in _WITHIN.get(model, ()):
            values = _kind(field.annotation) + _bounds(field.metadata)
            meaning = re.sub(r"(?<=\. )None:", "Not given:", meanings.get(name, "")).replace("; None:", "; not given:")
            rows.append((name, values, _default(field.get_default(call_default_factory=True)), meaning))
    return [(path + name, *row) for name, *row in [*rows, *_BEYOND.get(model, [])]]


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The strings under the fields of a class and its bases."""
    docs: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if not issubclass(kind, BaseModel) or kind.__module__.startswith("pydantic"):
            continue
        body = typing.cast(ast.ClassDef, ast.parse(inspect.getsource(kind)).body[0]).body
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                docs[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return docs


def _kind(annotation: Any) -> str:
    """A type in a user's words."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        kinds = dict.fromkeys(_kind(part) for part in inside if part is not types.NoneType)
        if "number" in kinds:
            kinds.pop("whole number", None)
        return " or ".join(kinds)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin is typing.Annotated:
        return _kind(inside[0]) + _bounds(inside[1:])
    if origin is list:
        return "a list" if inside == (Any,) else f"a list of: {_kind(inside[0])}"
    if origin is dict:
        return "a mapping" if inside[1] is Any else f"a mapping to: {_kind(inside[1])}"
    plain = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}
    return plain.get(annotation, "a mapping")


def _bounds(metadata: Iterable[Any]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [f" {signs[name]} {getattr(m, name)}" for m in metadata for name in signs if hasattr(m, name)]
    return " and".join(bounds)


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        value = value.model_dump()
        value = value.get("name", value)
    if value is None or value == {} or value == []:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"`{key}: {inner}`" for key, inner in value.items())
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _key_table(model: type[BaseModel], path: str = "") -> str:
    rows = [(f"`{name}`", values, default, meaning) for name, values, default, meaning in keys(model, path)]
    return table(("key", "values", "default", "meaning"), rows)


def _name_table(kind: str) -> str:
    entries = catalogue(kind)
    columns = [column for column in entries[0] if any(entry[column] for entry in entries)]
    rows = [[f"`{entry['name']}`", *(_cell(entry[column]) for column in columns[1:])] for entry in entries]
    return table(columns, rows)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "<br>".join(f"`{key}`: {inner}" for key, inner in value.items())
    return re.sub(r"``(.+?)``", r"`\1`", str(value))


def _stoppers() -> str:
    rows = []
    for entry in (entry for entry in catalogue("searches") if entry["kind"] == "stopper"):
        description = STOPPERS.describe(entry["name"])
        docs = {parameter.name: parameter.doc for parameter in description.parameters}
        parameters = [f"`{key}`: {kind}. {docs[key]}" for key, kind in entry["parameters"].items()]
        rows.append((f"`{description.name}`", description.doc, "<br>".join(parameters)))
    return table(("name", "what", "parameters"), rows)


def _decisions() -> str:
    pages = sorted((Path(__file__).parent / "adr").glob("*.md"))
    titles = ((page, page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")) for page in pages)
    return "\n".join(f"- [{title}](adr/{page.name})" for page, title in titles) + "\n"


_NAMED = ("methods", "models", "data", "schedules", "metrics", "searches", "plans", "papers")
TABLES: dict[str, Callable[[], str]] = {
    "search space": lambda: _key_table(SearchSpace),
    "range": lambda: _key_table(Range),
    "search": lambda: _key_table(Search, "search."),
    "resources": lambda: _key_table(Resources, "resources."),
    "baseline": lambda: _key_table(Baseline, "baseline."),
    "target": lambda: _key_table(Target, "target."),
    "retrain": lambda: _key_table(Retrain, "retrain."),
    "stoppers": _stoppers,
    "decisions": _decisions,
    **{kind: partial(_name_table, kind) for kind in _NAMED},
}
"""What a page may ask for."""
