"""Names and parameters that a search space gives, checked against the table of their kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.plugins import Registry, UnknownName
from orchestrator.spec.errors import SpecError, first_problem, join
from orchestrator.spec.failures import reason_of

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
        SpecError: as `checked_parameters`, or the plug-in cannot be imported, does not implement `base`, or refuses its
            parameters.
    """
    checked = checked_parameters(registry, name, params, section).model_dump()
    try:
        kind = registry.load(name)
    except UnknownName as error:
        raise SpecError(join(section, "name"), str(error)) from None
    except (Exception, SystemExit) as error:
        raise SpecError(join(section, "name"), f"{name!r} cannot be imported: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise SpecError(join(section, "name"), f"{name!r} is not derived from {base.__module__}.{base.__name__}")
    missing: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
    if missing:
        raise SpecError(join(section, "name"), f"{name!r} does not implement {', '.join(sorted(missing))}")
    with own_code(join(section, "name"), f"{name!r} cannot be constructed"):
        plugin: Plugin = kind(**checked)
    return plugin


@contextmanager
def own_code(path: str, failure: str) -> Iterator[None]:
    """Turn whatever a plug-in raises in the block into a SpecError at `path`; one that it raises itself stays.

    Args:
        path: where the search space names the plug-in.
        failure: what the plug-in failed to do; the reason is appended.
    """
    try:
        yield
    except SpecError:
        raise
    except (Exception, SystemExit) as error:
        raise SpecError(path, f"{failure}: {reason_of(error)}") from error
