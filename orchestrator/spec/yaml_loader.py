"""Plain data from YAML text, and settings from the command line that override them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from orchestrator.spec.errors import SpecError

_SECTIONS = frozenset({"model", "data", "baseline", "method", "target", "retrain", "seed"})


def parse_yaml(text: str, path: str) -> Any:
    """Return plain data from YAML: no tags, every key once, and 1e-4 a number (YAML 1.1 would read it as text)."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else path
        raise SpecError(where, f"is not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise SpecError(path, f"is not valid YAML: {error}") from None


def with_setting(raw: Any, dotted: str, value: Any) -> Any:
    """Return a copy of the raw search space with one value set.

    A path that begins with a section of a trial (``data.path``, ``retrain.epochs``) is set in the base, or in the
    shared axes where it stands there; every other path is taken from the top (``axes.seed``, ``resources.cpus``).
    """
    if not isinstance(raw, Mapping):
        return raw
    axes = raw.get("axes") or {}
    parts = dotted.split(".")
    if dotted in axes:
        return {**raw, "axes": {**axes, dotted: value if isinstance(value, list | Mapping) else [value]}}
    if parts[0] == "axes" and len(parts) > 1:
        return {**raw, "axes": {**axes, ".".join(parts[1:]): value}}
    if parts[0] in _SECTIONS:
        parts = ["base", *parts]
    if parts[0] == "resources" and (isinstance(raw.get("resources"), str) or isinstance(value, str)):
        # `auto` is no name that could be given parameters.
        raw = {key: section for key, section in raw.items() if key != "resources"}
    return assign(raw, parts, value)


def assign(config: Mapping[str, Any], parts: list[str], value: Any) -> dict[str, Any]:
    """Return a copy of nested mappings with one value set; a bare name on the way becomes ``{name: ...}``.

    A bare name set on a mapping names it and keeps its parameters (``retrain: {epochs: 10}`` with ``retrain: clr``).
    """
    head, *rest = parts
    current = config.get(head)
    if rest:
        if isinstance(current, str):
            current = {"name": current}
        inner = current if isinstance(current, Mapping) else {}
        return {**config, head: assign(inner, rest, value)}
    if isinstance(current, Mapping) and isinstance(value, str):
        return {**config, head: {**current, "name": value}}
    if isinstance(current, str | Mapping) and isinstance(value, Mapping):
        named = {"name": current} if isinstance(current, str) else current
        return {**config, head: {**named, **value}}
    return {**config, head: value}


class _Loader(yaml.SafeLoader):
    """Loads YAML with every key once and floats as users write them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)
