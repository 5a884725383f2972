"""The error for a bad search space: path, value and remedy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError


class PrunesweepError(Exception):
    """Base class of every exception that this package defines."""


class SpecError(PrunesweepError, ValueError):
    """A value of a search space that cannot be used.

    Args:
        path: where it stands, e.g. ``arms[1].axes.method.base_lamda_m``.
        message: what is wrong, with the value.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


def nearest(name: str, among: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` where a similar name exists, else the list of names."""
    names = sorted(among)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def join(*parts: str | int) -> str:
    """Return a path as a user would write it: ``join('arms', 1, 'axes') == 'arms[1].axes'``."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part:
            text += f".{part}" if text else part
    return text


def shown(value: Any) -> str:
    """Return a value as messages show it, cut to a line."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def first_problem(error: ValidationError, model: type[BaseModel]) -> tuple[tuple[str | int, ...], str]:
    """Return location and message of the first problem in an error of pydantic."""
    # An unknown key is nearly always a misspelling of the one that is reported missing: it comes first.
    problems = sorted(error.errors(include_url=False), key=lambda p: p["type"] != "extra_forbidden")
    problem = problems[0]
    location = tuple(problem["loc"])
    value = problem["input"]
    if problem["type"] == "extra_forbidden":
        return location, f"unknown name {str(location[-1])!r}{nearest(str(location[-1]), _siblings(model, location))}"
    if problem["type"] == "missing":
        return location, "is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return location, message
    # Pydantic says "Input should be ..."; a user needs both what is expected and the value.
    return location, f"{message.replace('Input should be', 'must be')}, found {shown(value)}"


def _siblings(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    current: Any = model
    for part in location[:-1]:
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else current
        current = next(
            (kind for kind in _kinds(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)), current
        )
    return list(getattr(current, "model_fields", {}))


def _kinds(annotation: Any) -> list[Any]:
    inner = [kind for part in getattr(annotation, "__args__", ()) for kind in _kinds(part)]
    return [annotation, *inner]
