"""Fingerprints of image files: they identify a data set in a trial's id independently of its path."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.data import DATA
from orchestrator.data.source import UnreadableData

_EDGE = 64 * 1024
_CONTENT_FILES = 1000


def fingerprint(path: Path) -> str:
    """Return 16 hex digits of a hash over all files' names (relative to ``path``), sizes, first and last 64 KiB.

    Of a folder with more than 1,000 files only the first 1,000 by name are opened. Hidden files are ignored: file
    managers and download tools create them. Raises `UnreadableData` where the path is missing, empty or
    unreadable.
    """
    path = path.expanduser()
    digest = hashlib.sha256()
    try:
        files = sorted(_files(path))
        for i, (name, file) in enumerate(files):
            size = file.stat().st_size
            digest.update(b"%d:%s:%d;" % (len(name), name, size))
            if i < _CONTENT_FILES:
                digest.update(_edges(file, size))
    except OSError as error:
        raise UnreadableData(f"cannot read data {str(error.filename or path)!r}: {error.strerror or error}") from error
    if not files:
        raise UnreadableData(f"cannot read data {str(path)!r}: no files in it")
    return digest.hexdigest()[:16]


def identity(name: str, params: Mapping[str, object]) -> dict[str, Any]:
    """Return the values that determine a data set's images: its name, parameters other than defaults, fingerprint.

    Only a user's own files (see `own_path`) have a fingerprint.
    """
    defaults = {p.name: p.default for p in DATA.describe(name).parameters}
    kept = {
        key: value
        for key, value in params.items()
        if key not in ("path", "download") and not (key in defaults and value == defaults[key])
    }
    values: dict[str, Any] = {"name": name, "params": kept}
    path = own_path(name, params)
    if path is not None:
        values["fingerprint"] = fingerprint(path)
    return values


def own_path(name: str, params: Mapping[str, object]) -> Path | None:
    """Return the absolute path of a user's own data set, that is one whose factory requires ``path``.

    None for a published set: its name alone identifies it, wherever its files are and whether or not they exist yet.
    """
    required = any(p.name == "path" and p.default is ... for p in DATA.describe(name).parameters)
    return Path(str(params["path"])).expanduser().resolve() if required else None


def _files(path: Path) -> Iterator[tuple[bytes, Path]]:
    """Iterate over relative name and path of every file; follows links, but enters no folder twice."""
    if not path.is_dir():
        path.stat()
        yield b"", path
        return
    entered = {path.resolve()}
    for folder, subfolders, names in os.walk(path, followlinks=True, onerror=_raise):
        parent = Path(folder)
        for name in list(subfolders):
            target = (parent / name).resolve()
            if name.startswith(".") or target in entered:
                subfolders.remove(name)
            entered.add(target)
        for name in names:
            if not name.startswith("."):
                yield os.fsencode((parent / name).relative_to(path).as_posix()), parent / name


def _edges(file: Path, size: int) -> bytes:
    with file.open("rb") as opened:
        start = opened.read(_EDGE)
        opened.seek(max(len(start), size - _EDGE))
        return start + opened.read(_EDGE)


def _raise(error: OSError) -> None:
    raise error


__all__ = ["UnreadableData", "fingerprint", "identity", "own_path"]
