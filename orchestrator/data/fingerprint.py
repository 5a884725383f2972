"""What identifies an image set in the id of a trial: its files, wherever they lie."""

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
    """16 hexadecimal digits over the names (relative to ``path``), sizes, and first and last 64 KiB of all files.

    Of a folder with more than 1,000 files only the first 1,000 by name are opened. Hidden files do not count: file
    managers and download tools leave them behind. Raises `UnreadableData` where the path is missing, empty or
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
    """The values that decide which images a data set has: its name, parameters other than defaults, and files.

    The user's own files (see `own_path`) are known by their fingerprint.
    """
    defaults = {p.name: p.default for p in DATA.describe(name).parameters}
    kept = {
        key: value
        for key, value in params.items()
        if key not in ("path", "download") and not (key in defaults and value == defaults[key])
    }
    found: dict[str, Any] = {"name": name, "params": kept}
    path = own_path(name, params)
    if path is not None:
        found["fingerprint"] = fingerprint(path)
    return found


def own_path(name: str, params: Mapping[str, object]) -> Path | None:
    """Where a data set of the user's own lies, absolute: that of a set whose ``path`` is required.

    None for a published set: its name says what it holds, wherever it lies, before and after it is downloaded.
    """
    required = any(p.name == "path" and p.default is ... for p in DATA.describe(name).parameters)
    return Path(str(params["path"])).expanduser().resolve() if required else None


def _files(path: Path) -> Iterator[tuple[bytes, Path]]:
    """Relative name and path of every file; follows links, but enters no folder twice."""
    if not path.is_dir():
        path.stat()
        yield b"", path
        return
    entered = {path.resolve()}
    for folder, subfolders, names in os.walk(path, followlinks=True, onerror=_raise):
        here = Path(folder)
        for name in list(subfolders):
            target = (here / name).resolve()
            if name.startswith(".") or target in entered:
                subfolders.remove(name)
            entered.add(target)
        for name in names:
            if not name.startswith("."):
                yield os.fsencode((here / name).relative_to(path).as_posix()), here / name


def _edges(file: Path, size: int) -> bytes:
    with file.open("rb") as opened:
        start = opened.read(_EDGE)
        opened.seek(max(len(start), size - _EDGE))
        return start + opened.read(_EDGE)


def _raise(error: OSError) -> None:
    raise error


__all__ = ["UnreadableData", "fingerprint", "identity", "own_path"]
