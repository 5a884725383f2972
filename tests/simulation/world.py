"""Discrete-event simulation: a clock that jumps from event to event, and processes that run in turn and can be killed.

Real code runs in the processes: dispatcher, worker, records, the cache of stages, locks and leases, MLflow's view.
Time, the death of processes, the disk, a bucket and MLflow's server are simulated. A process is a thread; one runs at a
time and hands over at system calls and when it waits, so that a seed always gives the same run.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest


class Killed(BaseException):
    """Raised in a process when it is killed, and by each of its later system calls."""


@dataclass(eq=False)
class Process:
    """A driver or a worker; a kill ends all of its threads."""

    name: str
    node: str = "node"
    alive: bool = True
    fuse: int | None = None
    """System calls until it is killed during one; None: never."""
    threads: list[Thread] = field(default_factory=list)


@dataclass(eq=False)
class Thread:
    process: Process
    body: Callable[[], None]
    turn: threading.Lock = field(default_factory=lambda: _held_lock())
    """Released to let the thread run."""
    wake_up: int = 0
    """Number of the event that wakes it; earlier events have no effect."""
    begun: bool = False
    ended: bool = False


class World:
    """Clock, chance and processes of one simulated sweep.

    Args:
        seed: every choice follows from it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.random = random.Random(seed)
        self.log: list[str] = []
        """Events in order, for the message of a failing seed."""
        self.error: BaseException | None = None
        """The exception of a process, which ends the run."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._n_events = 0
        self._turn = _held_lock()
        """Released to let the simulation run."""
        self._running: Thread | None = None
        self._begun: list[Thread] = []

    @property
    def current(self) -> Process | None:
        """The running process; None: the simulation itself."""
        return self._running.process if self._running is not None else None

    def note(self, text: str) -> None:
        """Write a line of the log."""
        self.log.append(f"{self.now:8.1f} s  {text}")

    def chance(self, share: float) -> bool:
        """Return True in this share of all cases."""
        return self.random.random() < share

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Schedule an action."""
        self._n_events += 1
        heapq.heappush(self._events, (self.now + seconds, self._n_events, action))

    def run(self, until: Callable[[], bool]) -> None:
        """Run events until a condition holds.

        Raises:
            AssertionError: no event is left, or 100,000 events have run, before it holds.
        """
        n_steps = 0
        while not until():
            assert self._events, "nothing is left to happen"
            n_steps += 1
            assert n_steps < 100_000, "it does not come to an end"
            self.now, _, action = heapq.heappop(self._events)
            action()
            if self.error is not None:
                raise self.error

    def start(self, process: Process, body: Callable[[], None]) -> Thread:
        """Start a thread of a process."""
        thread = Thread(process, body)
        process.threads.append(thread)
        self._wake(thread, 0.0)
        return thread

    @property
    def thread(self) -> Thread:
        """The running thread, for a later `wake`."""
        assert self._running is not None
        return self._running

    def wake(self, thread: Thread) -> None:
        """End the wait of a thread early."""
        if not thread.ended and thread is not self._running:
            self._wake(thread, 0.0)

    def kill(self, process: Process) -> None:
        """Kill a process: every later system call of its threads raises `Killed`."""
        if process.alive:
            process.alive = False
            self.note(f"{process.name} is killed")
        for thread in process.threads:
            self.wake(thread)

    def wait(self, seconds: float) -> None:
        """Suspend the running thread for simulated seconds."""
        thread = self._running
        assert thread is not None
        self._check_alive(thread.process)
        self._wake(thread, seconds)
        self._running = None
        self._turn.release()
        thread.turn.acquire()
        self._running = thread
        self._check_alive(thread.process)

    def system_call(self) -> bool:
        """Count a system call of the running process, and let others run first in one case of ten.

        Returns:
            Whether the process is killed during this call.

        Raises:
            Killed: the process was killed before.
        """
        process = self.current
        if process is None:
            return False
        self._check_alive(process)
        if self.chance(0.1):
            self.wait(self.random.random())
        if process.fuse is None:
            return False
        process.fuse -= 1
        if process.fuse > 0:
            return False
        self.kill(process)
        return True

    def end(self) -> None:
        """End all threads that are left."""
        self.error = None
        for thread in self._begun:
            thread.process.alive = False
            while not thread.ended:
                self._resume(thread)

    @contextmanager
    def clocks(self) -> Iterator[None]:
        """Give the processes this world's clock: time, monotonic and sleep."""
        real = time.time, time.monotonic, time.sleep
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda: real[0]() if self._running is None else 1.7e9 + self.now)
            patch.setattr(time, "monotonic", lambda: real[1]() if self._running is None else self.now)
            patch.setattr(time, "sleep", lambda s: real[2](s) if self._running is None else self.wait(s))
            yield

    def _check_alive(self, process: Process) -> None:
        if not process.alive:
            raise Killed(process.name)

    def _wake(self, thread: Thread, seconds: float) -> None:
        thread.wake_up += 1
        number = thread.wake_up

        def wake() -> None:
            if thread.wake_up == number and not thread.ended:
                self._resume(thread)

        self.later(seconds, wake)

    def _resume(self, thread: Thread) -> None:
        if not thread.begun:
            thread.begun = True
            self._begun.append(thread)
            threading.Thread(target=self._body, args=(thread,), daemon=True).start()
        else:
            thread.turn.release()
        self._turn.acquire()

    def _body(self, thread: Thread) -> None:
        self._running = thread
        try:
            self._check_alive(thread.process)
            thread.body()
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        finally:
            thread.ended = True
            self._running = None
            self._turn.release()


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock
