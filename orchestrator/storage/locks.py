"""Locks of the file system, which the kernel releases when their holder ends, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from orchestrator.spec.errors import PrunesweepError


class LockUnavailable(PrunesweepError, OSError):
    """Another process holds the lock, or the file system has no locks."""


@contextmanager
def acquire_lock(path: Path, *, wait: bool = True) -> Iterator[TextIO]:
    """Hold an exclusive lock on the file `path`, which is created where it is missing; yield the open file.

    Processes of one machine exclude each other; those of several where the file system says so to all (NFS does).

    Args:
        path: of a file that exists for the lock alone.
        wait: block until the lock is free.

    Raises:
        LockUnavailable: `wait` is False and another process holds the lock, or the file system has no locks.
    """
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LockUnavailable(error.errno, error.strerror, str(path)) from error
        yield file
