"""Remove the secrets of URIs from text that is shown, logged, or kept in a view."""

from __future__ import annotations

import re
from typing import Any

_USER = re.compile(r"\b([a-z][a-z0-9+.-]+:/{1,2})(?!/)[^\s'\"<>]*@", re.IGNORECASE)
"""Up to the last @: a password may hold slashes (S3 secrets do) and, unescaped, an @ of its own. One slash is what is
left of two in a path. Three have no user after them."""
_QUERY = re.compile(
    r"([?&;][\w.-]*(?:password|passwd|pwd|secret|token|signature|credential|api_?key|access_?key|sig)[\w.-]*=)"
    r"[^&;\s'\"<>]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}")


def redacted(text: str) -> str:
    """Return the text with ``***`` for users and passwords of URIs, for secret query parameters and bearer tokens."""
    text = _USER.sub(r"\1***@", text)
    return _BEARER.sub(r"\1 ***", _QUERY.sub(r"\1***", text))


def redacted_values(value: Any) -> Any:
    """The same for every string in nested plain data."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: redacted_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(inner) for inner in value]
    return value
