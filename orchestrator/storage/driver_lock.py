"""The lock that the driver of a sweep holds; who must not work beside it holds it too.

On one machine, and where a folder is shared, it is a lock of the file system, which falls with its holder. A store in a
bucket has a lease besides, which all machines see.
"""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orchestrator.spec.errors import PrunesweepError
from orchestrator.storage.bucket import bucket_of, lease_of
from orchestrator.storage.lease import LeaseHeld, holder_of, leased
from orchestrator.storage.uri import address_of

_LOCK = ".driver"


class DriverAtWork(PrunesweepError, ValueError):
    """A driver runs the sweep; the message says where."""


@contextmanager
def hold_driver_lock(sweep_folder: Path) -> Iterator[Callable[[], bool]]:
    """Be the one driver of a sweep; yields a function that says whether that was lost to another machine.

    Raises:
        DriverAtWork: there is one already.
    """
    with _held(sweep_folder, f"host {platform.node()}, pid {os.getpid()}") as lost:
        yield lost


@contextmanager
def exclude_driver(sweep_folder: Path) -> Iterator[None]:
    """Keep drivers away from a sweep; raises :class:`DriverAtWork` where one runs already."""
    with _held(sweep_folder):
        yield


def is_driven(sweep_folder: Path) -> bool:
    """A driver holds the sweep's lock."""
    try:
        with open(sweep_folder / _LOCK, "a+", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    bucket = bucket_of(sweep_folder)
    return bucket is not None and holder_of(bucket, lease_of(sweep_folder / _LOCK)) is not None


@contextmanager
def _held(sweep_folder: Path, note: str | None = None) -> Iterator[Callable[[], bool]]:
    with ExitStack() as stack:
        lock = stack.enter_context(open(sweep_folder / _LOCK, "a+", encoding="utf-8"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip()
            raise DriverAtWork(f"{address_of(sweep_folder)}: a driver runs this sweep ({holder})") from None
        lost: Callable[[], bool] = _never
        bucket = bucket_of(sweep_folder)
        if bucket is not None:
            try:
                lost = stack.enter_context(leased(bucket, lease_of(sweep_folder / _LOCK), wait=False))
            except LeaseHeld as other:
                raise DriverAtWork(f"{address_of(sweep_folder)}: a driver runs this sweep ({other})") from None
        if note is not None:
            lock.seek(0)
            lock.truncate()
            lock.write(note)
            lock.flush()
        yield lost


def _never() -> bool:
    return False
