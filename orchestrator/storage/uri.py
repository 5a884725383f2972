"""URIs of stores in buckets, and the folders of this machine that mirror them."""

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
    """Return whether a store is given by a URI, not by a folder."""
    return _ANY.match(str(text)) is not None


def mirror_of(uri: str) -> Path:
    """Return the folder of this machine that mirrors a URI: below ``PRUNESWEEP_STORES``, else in the user's cache.

    The folder is made of the URI's own parts, so that the mirror of ``s3://bucket/runs/sweep`` lies in that of
    ``s3://bucket/runs``.

    Raises:
        SpecError: not an ``s3://`` or ``gs://`` URI of a bucket, or one with a user, a query or unusual signs in it.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        what = "must be a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX (letters, digits, . _ = -)"
        more = "; credentials belong in the environment" if "@" in uri or "?" in uri else ""
        raise SpecError("--out", f"{what}, found {redacted(uri)!r}{more}")
    scheme, bucket, prefix = match.groups()
    return _root() / _server(scheme) / bucket / prefix.strip("/")


def store_folder(out: str | Path) -> Path:
    """Return a store as a folder of this machine: itself, or the mirror of an ``s3://`` or ``gs://`` URI.

    Raises:
        SpecError: `out` is neither.
    """
    return mirror_of(str(out)) if is_uri(out) else Path(out).expanduser()


def uri_of(path: Path) -> str | None:
    """Return the URI that a path of this machine mirrors, or None where it mirrors nothing.

    Raises:
        SpecError: the path mirrors a bucket of another server than the environment names now.
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
    """Return server, bucket and key of what a path mirrors."""
    try:
        parts = Path(os.path.realpath(path)).relative_to(_root()).parts
    except ValueError:
        return None
    if len(parts) < 2 or parts[0].partition("-")[0] not in _SERVERS:
        return None
    return parts[0], parts[1], "/".join(parts[2:])


def _root() -> Path:
    configured = os.environ.get("PRUNESWEEP_STORES")
    return Path(os.path.realpath(Path(configured or "~/.cache/prunesweep/stores").expanduser()))


def _server(scheme: str) -> str:
    """Return the folder of a server's buckets: the scheme, and the server's address where it is not the cloud's own."""
    url = next(filter(None, map(os.environ.get, _SERVERS[scheme])), "")
    address = re.sub(r"[^A-Za-z0-9.]+", "_", url.partition("://")[2] or url).strip("_")
    return f"{scheme}-{address}" if address else scheme
