"""The lock of a sweep's driver, which whoever must not work beside a driver holds too.

On one machine, and in a folder that machines share, it is a lock of the file system. A store in a bucket has a lease
besides, which all machines see.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orchestrator.spec.errors import PrunesweepError
from orchestrator.storage.lease import LeaseHeld, acquire_lease, holder_of
from orchestrator.storage.locks import LockUnavailable, acquire_lock
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths


class SweepLocked(PrunesweepError, ValueError):
    """A driver runs the sweep; the message says where."""


@contextmanager
def hold_driver_lock(store: Store, sweep_folder: Path) -> Iterator[Callable[[], bool]]:
    """Hold the driver lock of a sweep; yield a function that tells whether another machine has taken it over.

    Raises:
        SweepLocked: a driver holds it.
    """
    with _hold(store, sweep_folder, f"host {platform.node()}, pid {os.getpid()}") as is_lost:
        yield is_lost


@contextmanager
def exclude_driver(store: Store, sweep_folder: Path) -> Iterator[None]:
    """Hold the driver lock of a sweep without being its driver; raise :class:`SweepLocked` where one holds it."""
    with _hold(store, sweep_folder):
        yield


def is_driven(store: Store, sweep_folder: Path) -> bool:
    """Return whether a driver holds the sweep's lock."""
    path = SweepPaths(sweep_folder).driver_lock
    try:
        with acquire_lock(path, wait=False):
            pass
    except LockUnavailable as error:
        return error.errno == errno.EWOULDBLOCK
    except OSError:
        return False
    return store.bucket is not None and holder_of(store.bucket, path) is not None


@contextmanager
def _hold(store: Store, sweep_folder: Path, driver: str | None = None) -> Iterator[Callable[[], bool]]:
    """Hold the lock; `driver` is what others are told of the holder."""
    path = SweepPaths(sweep_folder).driver_lock
    address = store.address_of(sweep_folder)
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(acquire_lock(path, wait=False))
        except LockUnavailable:
            holder = path.read_text(encoding="utf-8").strip()
            raise SweepLocked(f"{address}: a driver runs this sweep ({holder})") from None
        is_lost: Callable[[], bool] = _never
        if store.bucket is not None:
            try:
                is_lost = stack.enter_context(acquire_lease(store.bucket, path, wait=False))
            except LeaseHeld as held:
                raise SweepLocked(f"{address}: a driver runs this sweep ({held})") from None
        if driver is not None:
            lock.seek(0)
            lock.truncate()
            lock.write(driver)
            lock.flush()
        yield is_lost


def _never() -> bool:
    return False
