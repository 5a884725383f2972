"""Constraints on metrics, as a search space writes them: ``"<= 12"``."""

from __future__ import annotations

import math
import re

from orchestrator.spec.errors import shown


def comparison(text: str) -> tuple[str, float]:
    """Return sign and bound of a constraint: ``("<=", 12.0)`` of ``"<= 12"``; raises ValueError with the text."""
    match = re.fullmatch(r"\s*(<=|>=|<|>)\s*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*", text)
    if match is None:
        raise ValueError(f"must be a comparison such as '<= 12', found {shown(text)}")
    return match[1], float(match[2])


def violation(text: str, value: float) -> float:
    """Return the excess of a value over its bound as a share of the bound (of 1 where that is 0); above 0: broken."""
    sign, bound = comparison(text)
    excess = (value - bound if sign[0] == "<" else bound - value) / (abs(bound) or 1.0)
    return math.ulp(1.0) if excess == 0 and len(sign) == 1 else excess
