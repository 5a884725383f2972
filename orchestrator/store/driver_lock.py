"""The lock that the driver of a sweep holds, for those who must not work beside it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DriverAtWork(ValueError):
    """A driver runs the sweep; the message says where."""


@contextmanager
def without_driver(sweep_folder: Path) -> Iterator[None]:
    """Keep drivers away from a sweep; raises :class:`DriverAtWork` where one runs already."""
    with open(sweep_folder / ".driver", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise DriverAtWork(f"{sweep_folder}: a driver runs this sweep ({lock.read().strip()})") from None
        yield
