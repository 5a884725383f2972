"""Files that appear whole or not at all, whenever their writer is killed; of a store in a bucket, there first."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.storage.bucket import Bucket, bucket_of

_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK})
_CLAIM_SECONDS = 10.0
"""Between a claim and its release lies one rename; a claim that is older belongs to a dead writer."""


def write_once(path: Path, data: bytes) -> bool:
    """Write a file unless it exists: True for the one writer whose data stand, False for every other.

    In a bucket the object decides; the mirror shows what stands.
    """
    bucket = bucket_of(path)
    if bucket is not None:
        mine = bucket.create(path, data)
        standing = data if mine else bucket.read(path)
        if standing is not None:
            with replacing_here(path) as temporary:
                temporary.write_bytes(standing)
        return mine
    if path.exists():
        return False
    temporary = _temporary(path)
    try:
        _write(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _rename_once(temporary, path)
        _sync_folder(path.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to; it takes the place of ``path`` when the block ends well, and vanishes otherwise."""
    with _replacing(path, bucket_of(path)) as temporary:
        yield temporary


@contextmanager
def replacing_here(path: Path) -> Iterator[Path]:
    """The same, on this machine alone: a bucket is told nothing."""
    with _replacing(path, None) as temporary:
        yield temporary


@contextmanager
def _replacing(path: Path, bucket: Bucket | None) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        if bucket is not None:
            bucket.put(path, temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _rename_once(temporary: Path, path: Path) -> bool:
    """Where hard links are not supported: an exclusive claim, then a rename, so that the file still appears whole."""
    claim = path.with_name(f".{path.name}.claim")
    while True:
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            if path.exists():
                return False
            try:
                age = time.time() - claim.stat().st_mtime
            except FileNotFoundError:
                continue
            if age > _CLAIM_SECONDS:
                claim.unlink(missing_ok=True)
            else:
                time.sleep(0.02)
    try:
        if path.exists():
            return False
        os.replace(temporary, path)
        _sync_folder(path.parent)
        return True
    finally:
        claim.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # The name itself must survive a power cut, not only the data. Some network file systems refuse; they sync anyway.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
