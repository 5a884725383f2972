"""Files and folders of this machine that appear whole or not at all, whenever their writer is killed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK})
_CLAIM_SECONDS = 10.0
"""Age at which a claim belongs to a dead writer: between a claim and its release lies one rename."""


def write_once(path: Path, data: bytes) -> bool:
    """Write a file unless it exists; return whether this call wrote it. Of several writers exactly one does."""
    if path.exists():
        return False
    temporary = temporary_path(path)
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
    """Yield a temporary path whose file replaces `path` when the block ends without an error, else is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty draft folder that replaces `folder` when the block ends without an error, else is removed.

    Readers see the old content, none, or the new content, never a mixture. Only one process at a time may replace a
    folder: hold a lock.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_folder(folder)
    draft.mkdir()
    try:
        yield draft
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder; readers see all of its content or none."""
    draft = draft_folder(folder)
    os.rename(folder, draft)
    shutil.rmtree(draft)


def temporary_path(path: Path) -> Path:
    """Return a hidden name beside `path` that no other writer uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def draft_folder(folder: Path) -> Path:
    """Return a hidden name beside `folder` that no other writer uses; garbage collection knows it by its form."""
    return folder.with_name(f".{folder.name.strip('.').partition('-')[0]}-{secrets.token_hex(4)}")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _rename_once(temporary: Path, path: Path) -> bool:
    """Rename `temporary` to `path` unless that exists, on file systems without hard links.

    An exclusive claim beside `path` keeps other writers away meanwhile.
    """
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
