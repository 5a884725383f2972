"""What ends the work of a driver before its sweep has ended: a signal, or a store that cannot be written."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.spec.errors import PrunesweepError


class Interrupted(PrunesweepError):
    """A person or a scheduler asked the driver to stop."""


class StoreUnavailable(PrunesweepError):
    """The store cannot be written any more; jobs that were running have no record."""


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Yield a check that raises :class:`Interrupted` once SIGINT or SIGTERM has arrived; a second one stops at once.

    The handler itself raises nothing the first time: inside Ray's compiled code an exception would come out as another.
    """
    arrived = False

    def stop(number: int, frame: object) -> None:
        nonlocal arrived
        if arrived:
            raise KeyboardInterrupt
        arrived = True

    def check() -> None:
        if arrived:
            raise Interrupted

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
