"""Stores in buckets: the folder that mirrors ``s3://bucket/runs`` on this machine, and which object a path mirrors."""

from __future__ import annotations

import os
import re
from pathlib import Path

from orchestrator.spec.errors import SpecError
from orchestrator.spec.redacting import redacted

_ANY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_URI = re.compile(r"(s3|gs)://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])((?:/(?![.]{1,2}(?:/|$))[A-Za-z0-9._=-]+)*)/?")
_SERVERS = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "gs": ("STORAGE_EMULATOR_HOST",)}
"""Variables that name a server other than the cloud's own: its buckets are others of the same name."""


def is_uri(text: str | Path) -> bool:
    """It names no folder but a place elsewhere."""
    return _ANY.match(str(text)) is not None


def mirror_of(uri: str) -> Path:
    """The folder of this machine that mirrors a place in a bucket: below ``PRUNESWEEP_STORES``, else the user's cache.

    It is made of the URI's own parts, so that the mirror of what lies in the place lies in the place's mirror.

    Raises:
        SpecError: it is no ``s3://`` or ``gs://`` URI of a bucket, or one with a user, a query or unusual signs in it.
    """
    found = _URI.fullmatch(uri)
    if found is None:
        what = "must be a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX (letters, digits, . _ = -)"
        more = "; credentials belong in the environment" if "@" in uri or "?" in uri else ""
        raise SpecError("--out", f"{what}, found {redacted(uri)!r}{more}")
    scheme, bucket, prefix = found.groups()
    return _root() / _server(scheme) / bucket / prefix.strip("/")


def store_folder(out: str | Path) -> Path:
    """The store as a folder of this machine: itself, or the mirror of ``s3://`` and ``gs://`` URIs.

    Raises:
        SpecError: it is neither.
    """
    return mirror_of(str(out)) if is_uri(out) else Path(out).expanduser()


def uri_of(path: Path) -> str | None:
    """The URI of the object, or of the place, that a path of this machine mirrors; None where it mirrors nothing.

    Raises:
        SpecError: it mirrors a bucket of another server than the environment names now.
    """
    parts = _parts_of(path)
    if parts is None:
        return None
    server, bucket, key = parts
    scheme = server.partition("-")[0]
    if server != _server(scheme):
        names = " or ".join(_SERVERS[scheme])
        raise SpecError("--out", f"{str(path)!r} mirrors a bucket of another server than {names} says")
    return f"{scheme}://{bucket}/{key}".rstrip("/")


def _parts_of(path: Path) -> tuple[str, str, str] | None:
    """Server, bucket and key of what a path mirrors."""
    try:
        parts = Path(os.path.realpath(path)).relative_to(_root()).parts
    except ValueError:
        return None
    if len(parts) < 2 or parts[0].partition("-")[0] not in _SERVERS:
        return None
    return parts[0], parts[1], "/".join(parts[2:])


def address_of(path: Path) -> str:
    """What to call a path in messages and on other machines: its URI where it mirrors a bucket, else the path."""
    return uri_of(path) or str(path)


def _root() -> Path:
    named = os.environ.get("PRUNESWEEP_STORES")
    return Path(os.path.realpath(Path(named or "~/.cache/prunesweep/stores").expanduser()))


def _server(scheme: str) -> str:
    url = next(filter(None, map(os.environ.get, _SERVERS[scheme])), "")
    place = re.sub(r"[^A-Za-z0-9.]+", "_", url.partition("://")[2] or url).strip("_")
    return f"{scheme}-{place}" if place else scheme
