"""Names and parameters that a search space gives, checked against the table of their kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.plugins import Registry, UnknownName
from orchestrator.spec.errors import SpecError, first_problem, join

Plugin = TypeVar("Plugin")


def checked_parameters(registry: Registry, name: str, params: Mapping[str, Any], section: str) -> BaseModel:
    """Validate the parameters of a plug-in without importing it.

    Args:
        registry: the table of its kind.
        name: a name of the table, or the user's own ``module:name``.
        params: as the search space gives them.
        section: path of the section that names it.

    Raises:
        SpecError: an unknown name or parameter, or a value of the wrong type.
    """
    try:
        model = registry.parameters(name)
    except UnknownName as error:
        raise SpecError(join(section, "name"), str(error)) from None
    try:
        return model.model_validate(dict(params))
    except ValidationError as error:
        location, message = first_problem(error, model)
        raise SpecError(join(section, *location[:1]), message) from None


def instance(registry: Registry, name: str, params: Mapping[str, Any], section: str, base: type[Plugin]) -> Plugin:
    """Import a plug-in and construct it from its parameters.

    Raises:
        SpecError: as `checked_parameters`, or the plug-in cannot be imported or is not derived from `base`.
    """
    checked = checked_parameters(registry, name, params, section).model_dump()
    try:
        kind = registry.load(name)
    except Exception as error:
        raise SpecError(join(section, "name"), f"{name!r} cannot be imported: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise SpecError(join(section, "name"), f"{name!r} is not derived from {base.__module__}.{base.__name__}")
    plugin: Plugin = kind(**checked)
    return plugin
