"""A table of plug-ins: names that are visible in the package, then entry points, then the user's own modules."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel

from orchestrator.plugins.definitions import UnknownName
from orchestrator.plugins.source import Description, UnusablePlugin, describe, unimplemented
from orchestrator.plugins.vocabulary import parameters_of
from orchestrator.spec.errors import nearest


@dataclass(frozen=True, eq=False)
class Registry:
    """A table of plug-ins of one kind: name -> ``module:attribute``, extended by the entry points of ``group``.

    ``supplied`` names the arguments that the package itself passes; they are not parameters of the search space.
    ``open_names``: a name with a colon (``my_pkg.nets:tiny``) is the user's own ``module:attribute``.
    ``prefixes``: a name such as ``torchvision:resnet18`` goes to the plug-in its prefix stands for.
    ``base``: the class, as ``module:attribute``, that every plug-in inherits.
    """

    kind: str
    group: str
    table: Mapping[str, str]
    supplied: frozenset[str] = frozenset()
    open_names: bool = False
    prefixes: Mapping[str, str] = field(default_factory=dict)
    base: str = ""

    def names(self) -> list[str]:
        """Return every name, the table's own first."""
        return list(self.table) + [name for name in _entry_points(self.group) if name not in self.table]

    def targets(self) -> dict[str, str]:
        """Return ``module:attribute`` by name."""
        return {**_entry_points(self.group), **self.table}

    def target(self, name: str) -> str:
        """Return the ``module:attribute`` of a name; raises :class:`UnknownName` with the nearest valid name."""
        targets = self.targets()
        if name in targets:
            return targets[name]
        prefix, colon, rest = name.partition(":")
        if colon and rest and prefix in self.prefixes:
            return self.prefixes[prefix]
        if colon and self.open_names:
            if re.fullmatch(r"\w+(\.\w+)*:\w+", name) is None:
                raise UnknownName(f"unknown {self.kind} {name!r}; a name of your own is 'package.module:name'")
            return name
        raise UnknownName(f"unknown {self.kind} {name!r}{nearest(name, targets)}")

    def load(self, name: str) -> Any:
        """Import and return the plug-in; raises :class:`UnusablePlugin` where it does not implement ``base``."""
        plugin = _imported(self.target(name))
        if self.base:
            base = _imported(self.base)
            if not isinstance(plugin, type) or not issubclass(plugin, base):
                raise self._unusable(name, f"does not inherit {self.base}")
            missing: frozenset[str] = getattr(plugin, "__abstractmethods__", frozenset())
            if missing:
                raise self._unusable(name, f"does not implement {', '.join(sorted(missing))}")
        return plugin

    def describe(self, name: str) -> Description:
        """Return documentation, parameters and class attributes of a plug-in, without importing it.

        Raises :class:`UnusablePlugin` where the source shows that the plug-in does not implement ``base``.
        """
        target = self.target(name)
        description = describe(name, target, self.supplied)
        problem = unimplemented(target, self.base) if self.base else ""
        if problem:
            raise self._unusable(name, problem)
        return description

    def parameters(self, name: str) -> type[BaseModel]:
        """Return a pydantic model of the plug-in's parameters: strict types, unknown names refused."""
        return parameters_of(self.describe(name))

    def _unusable(self, name: str, problem: str) -> UnusablePlugin:
        return UnusablePlugin(f"{self.kind} {name!r} ({self.target(name)}) {problem}")


def _imported(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def _entry_points(group: str) -> Mapping[str, str]:
    """Return the names that installed packages add; cached, as it reads the metadata of every installed package."""
    return {point.name: point.value for point in entry_points(group=group)}
