"""Read the published tables of the five papers, stored as JSON with their provenance."""

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
    """A paper or table that is not stored."""


@dataclass(frozen=True)
class PublishedTable:
    """One table of one paper; values are as published (in percent where the column's name says so)."""

    paper: str
    number: str
    title: str
    provenance: str
    """Origin of the numbers, in the terms of the file's ``provenance_key``."""
    rows: tuple[Mapping[str, Any], ...]
    """Rows, each with ``group`` if the table has parts, and ``flags``: known errors and doubts."""
    flags: tuple[str, ...]
    """Known errors and doubts about the whole table."""
    content: Mapping[str, Any]
    """Everything stored about the table, e.g. its published means."""


def papers() -> dict[str, str]:
    """Return the identifier and title of each paper."""
    return {name: str(paper(name)["paper"]) for name in _names()}


@cache
def paper(name: str) -> Mapping[str, Any]:
    """Return everything stored about one paper.

    Raises:
        NoSuchTable: the paper is not stored.
    """
    if name not in _names():
        raise NoSuchTable(f"paper: no tables of {name!r}{nearest(name, _names())}")
    content: Mapping[str, Any] = json.loads(files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return content


def tables(name: str) -> list[str]:
    """Return the numbers of the stored tables of a paper."""
    numbers = {match[1] for key in paper(name) if (match := re.match(r"table(\d+)(_|$)", key))}
    return sorted(numbers, key=int)


def table(name: str, number: int | str) -> PublishedTable:
    """Return one published table, with its parts concatenated.

    Raises:
        NoSuchTable: the paper or the table is not stored.
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
    described = [part for part in parts.values() if isinstance(part, Mapping)]
    return PublishedTable(
        paper=name,
        number=number,
        title=_first(described, "title", "caption") or content.get("captions", {}).get(number, ""),
        provenance="; ".join(dict.fromkeys(_provenances(described))),
        rows=tuple(rows),
        flags=(*[d["what"] for d in doubts if not d["rows"]], *[part["note"] for part in described if "note" in part]),
        content=next(iter(parts.values())) if len(parts) == 1 else parts,
    )


@cache
def _names() -> tuple[str, ...]:
    # importlib.resources, because the package may be installed as an archive.
    names = [entry.name for entry in files(__package__).iterdir()]
    return tuple(sorted(name.removesuffix(".json") for name in names if name.endswith(".json")))


def _rows(part: Any, group: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a part with their group: the key of their list, unless it is a generic one such as ``rows``."""
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
