"""The types in which a plug-in annotates its parameters, and the validation of parameters by them."""

from __future__ import annotations

import typing
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from orchestrator.plugins.definitions import UnknownName
from orchestrator.plugins.source import Description, Parameter

# The vocabulary in which a plug-in annotates its parameters. Bounds travel with the type, so `plan` can refuse a bad
# value without importing the plug-in (and, with it, torch).
Share = Annotated[float, Field(ge=0, le=1)]
"""A float from 0 to 1."""
OpenShare = Annotated[float, Field(ge=0, lt=1)]
"""A float from 0 up to, but not including, 1."""
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
"""A whole number from 1."""
Natural = Annotated[int, Field(ge=0)]
"""A whole number from 0."""

_VOCABULARY: dict[str, Any] = {
    "Annotated": Annotated,
    "Field": Field,
    "Share": Share,
    "OpenShare": OpenShare,
    "Positive": Positive,
    "NonNegative": NonNegative,
    "Count": Count,
    "Natural": Natural,
    "Literal": Literal,
    "Any": Any,
}


def validator(name: str, parameters: typing.Iterable[Parameter], open_ended: bool) -> type[BaseModel]:
    """Return a strict pydantic model of parameters."""
    fields: dict[str, Any] = {}
    for p in parameters:
        # The annotations come from our own table or from the user's own module: the same trust as importing it.
        try:
            kind = eval(p.annotation, dict(_VOCABULARY)) if p.annotation else Any
        except (NameError, TypeError, AttributeError) as error:
            problem = (
                f"{name!r}: the annotation of {p.name!r} is not of the vocabulary of orchestrator.plugins: {error}"
            )
            raise UnknownName(problem) from None
        fields[p.name] = (kind, p.default)
    config = ConfigDict(extra="allow" if open_ended else "forbid", strict=True, frozen=True, protected_namespaces=())
    model: type[BaseModel] = create_model(name, __config__=config, **fields)
    return model


@cache
def _validator(name: str, parameters: tuple[Parameter, ...], open_ended: bool) -> type[BaseModel]:
    return validator(name, parameters, open_ended)


def parameters_of(described: Description) -> type[BaseModel]:
    return _validator(described.name, described.parameters, described.open_ended)
