"""Leases: who is alone with something in a bucket, where there is no lock that falls with its holder.

A lease is a folder of numbered objects; the one of the highest number holds it, until it says ``released``, was not
renewed for a minute by the bucket's own clock, or belongs to a process that this machine knows to be gone. Who comes
next creates the next number, which only one can. Nothing else is asked of a bucket than to create what is not there.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Protocol

from orchestrator.spec.errors import PrunesweepError, StoreAway

SECONDS = 60.0
"""A lease that was not renewed for so long is free."""
_RENEWALS = 4
_POLL_SECONDS = 2.0


class Stamp(Protocol):
    @property
    def modified(self) -> float: ...


class Objects(Protocol):
    """What a lease needs of a bucket; paths are those of the mirror."""

    def create(self, path: Path, data: bytes) -> bool: ...
    def write(self, path: Path, data: bytes) -> None: ...
    def read(self, path: Path) -> bytes | None: ...
    def remove(self, path: Path) -> None: ...
    def listing(self, folder: Path) -> Mapping[str, Stamp]: ...
    def now(self, near: Path) -> float: ...


@dataclass(frozen=True)
class Holder:
    """A process that holds, or held, a lease."""

    host: str
    pid: int
    machine: str
    """Tells processes of equal numbers apart: the start of the machine and the namespace of its process numbers."""
    started: str
    """Of the process; its number may be another's by now."""
    token: str
    released: bool = False

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        return cls(platform.node(), os.getpid(), _machine(), _started(os.getpid()), secrets.token_hex(8))

    @property
    def is_gone(self) -> bool:
        """It ran on this machine and does no more; False where that cannot be told."""
        return bool(self.machine) and self.machine == _machine() and _started(self.pid) != self.started


class LeaseHeld(PrunesweepError, ValueError):
    """Somebody else holds the lease."""

    def __init__(self, holder: Holder, age: float) -> None:
        self.holder, self.age = holder, age
        left = f"free in {max(1, round(SECONDS - age))} s if it was killed"
        super().__init__(f"host {holder.host}, pid {holder.pid}; last heard of {max(0, round(age))} s ago, {left}")


def holder_of(objects: Objects, folder: Path) -> Holder | None:
    """Who holds a lease now."""
    return _standing(objects, folder)[1]


@contextmanager
def leased(objects: Objects, folder: Path, *, wait: bool) -> Iterator[Callable[[], bool]]:
    """Hold a lease; yields a function that says whether it was lost to somebody else (after a minute without a bucket).

    Raises:
        LeaseHeld: somebody holds it, and `wait` is False.
    """
    mine = Holder.here()
    number = _take(objects, folder, mine, wait)
    renewing = _Renewing(objects, folder, number, mine)
    renewing.start()
    try:
        yield lambda: renewing.lost
    finally:
        renewing.stop()


def _take(objects: Objects, folder: Path, mine: Holder, wait: bool) -> int:
    while True:
        number, holder, age = _standing(objects, folder)
        if holder is None and objects.create(_path(folder, number + 1), _json(mine)):
            standing = _numbers(objects, folder)
            if max(standing, default=0) == number + 1:
                for earlier in standing:
                    if earlier <= number:
                        objects.remove(_path(folder, earlier))
                return number + 1
            # A later one came and cleared up before this one was made.
            objects.remove(_path(folder, number + 1))
        elif holder is not None:
            if not wait:
                raise LeaseHeld(holder, age)
            time.sleep(_POLL_SECONDS)


def _standing(objects: Objects, folder: Path) -> tuple[int, Holder | None, float]:
    """The highest number, who holds the lease by it (None: nobody), and the seconds since it was renewed."""
    found = objects.listing(folder)
    numbers = {int(name): stamp for name, stamp in found.items() if name.isdecimal()}
    if not numbers:
        return 0, None, 0.0
    number = max(numbers)
    data = objects.read(_path(folder, number))
    holder = _holder(data)
    if holder is None or holder.released or holder.is_gone:
        return number, None, 0.0
    age = objects.now(folder) - numbers[number].modified
    return number, holder if age <= SECONDS else None, age


def _numbers(objects: Objects, folder: Path) -> list[int]:
    return sorted(int(name) for name in objects.listing(folder) if name.isdecimal())


class _Renewing:
    def __init__(self, objects: Objects, folder: Path, number: int, mine: Holder) -> None:
        self._objects, self._folder, self._number, self._mine = objects, folder, number, mine
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self.lost = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        if not self.lost:
            with suppress(StoreAway):  # it ends by itself
                self._say(replace(self._mine, released=True))

    def _run(self) -> None:
        said = time.monotonic()
        while not self._over.wait(SECONDS / _RENEWALS):
            began = time.monotonic()
            try:
                # Late, because the process slept or the bucket was away: somebody may have come meanwhile.
                late = began - said > SECONDS / 2
                if late and max(_numbers(self._objects, self._folder), default=0) > self._number:
                    self.lost = True
                    return
                self._say(self._mine)
                said = began
            except StoreAway:
                continue

    def _say(self, what: Holder) -> None:
        self._objects.write(_path(self._folder, self._number), _json(what))


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}"


def _json(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _holder(data: bytes | None) -> Holder | None:
    if data is None:
        return None  # removed by the next holder meanwhile
    try:
        told = json.loads(data)
        return Holder(**{field.name: told[field.name] for field in fields(Holder)})
    except (ValueError, TypeError, KeyError):
        # Of another version: somebody's all the same, for a minute.
        return Holder("unknown", 0, "", "", "")


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process began, in ticks since the machine did; nothing where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    # A zombie has ended: only its parent has not asked yet.
    return "" if fields[0] == "Z" else fields[19]
