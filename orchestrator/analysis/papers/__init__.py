"""The printed tables of the five papers, as data with their provenance."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from orchestrator.spec.errors import PrunesweepError, nearest


class NoSuchTable(PrunesweepError, ValueError):
    """A paper or a table that is not among the printed ones."""


@dataclass(frozen=True)
class PrintedTable:
    """One table of one paper. Rows are as printed (percent where the column's name says so)."""

    paper: str
    number: str
    title: str
    provenance: str
    """What its numbers rest on, in the words of `provenance_key`."""
    rows: tuple[Mapping[str, Any], ...]
    """Each with ``group``, where the table has parts, and ``flags``: what is known to be wrong or uncertain in it."""
    flags: tuple[str, ...]
    """The same of the table as a whole."""
    content: Mapping[str, Any]
    """Everything recorded of the table, e.g. its printed means."""


def papers() -> dict[str, str]:
    """Identifier and title of each paper."""
    return {name: str(paper(name)["paper"]) for name in _names()}


@cache
def paper(name: str) -> Mapping[str, Any]:
    """Everything recorded of one paper.

    Raises:
        NoSuchTable: no such paper.
    """
    if name not in _names():
        raise NoSuchTable(f"paper: no tables of {name!r}{nearest(name, _names())}")
    found: Mapping[str, Any] = json.loads(files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return found


def tables(name: str) -> list[str]:
    """The numbers of the tables of a paper of which something is recorded."""
    found = {match[1] for key in paper(name) if (match := re.match(r"table(\d+)(_|$)", key))}
    return sorted(found, key=int)


def table(name: str, number: int | str) -> PrintedTable:
    """One printed table, its parts one after another.

    Raises:
        NoSuchTable: no such paper, or nothing is recorded of that table.
    """
    content, number = paper(name), str(number)
    parts = {key: content[key] for key in content if re.fullmatch(rf"table{number}(_\w+)?", key)}
    if not parts:
        raise NoSuchTable(f"table: paper {name} has no table {number!r}; known: {', '.join(tables(name))}")
    doubts = [doubt for doubt in content["inconsistencies"] if doubt["table"] == number]
    rows = []
    for part in parts.values():
        for group, row in _rows(part):
            flags = [row[key] for key in ("note", "repair") if key in row]
            flags += [d["what"] for d in doubts if d["rows"] and d["rows"].items() <= row.items()]
            rows.append({**row, **({"group": group} if group else {}), "flags": tuple(flags)})
    found = [part for part in parts.values() if isinstance(part, Mapping)]
    return PrintedTable(
        paper=name,
        number=number,
        title=_first(found, "title", "caption") or content.get("captions", {}).get(number, ""),
        provenance="; ".join(dict.fromkeys(_provenances(found))),
        rows=tuple(rows),
        flags=(*[d["what"] for d in doubts if not d["rows"]], *[part["note"] for part in found if "note" in part]),
        content=next(iter(parts.values())) if len(parts) == 1 else parts,
    )


@cache
def _names() -> tuple[str, ...]:
    # Resources, not paths: a package may be installed as an archive.
    found = [entry.name for entry in files(__package__).iterdir()]
    return tuple(sorted(name.removesuffix(".json") for name in found if name.endswith(".json")))


def _rows(part: Any, group: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The lists of rows of a part; one that does not lie under a plain key is a group of its own."""
    if isinstance(part, list):
        yield from ((group, row) for row in part if isinstance(row, Mapping))
    elif isinstance(part, Mapping):
        for key, inner in part.items():
            yield from _rows(inner, group if key in ("rows", "known", "reading_preferred") else key)


def _first(parts: list[Mapping[str, Any]], *keys: str) -> str:
    return next((str(part[key]) for part in parts for key in keys if key in part), "")


def _provenances(parts: list[Mapping[str, Any]]) -> Iterator[str]:
    for part in parts:
        if "provenance" in part:
            yield str(part["provenance"])
        yield from _provenances([inner for inner in part.values() if isinstance(inner, Mapping)])
