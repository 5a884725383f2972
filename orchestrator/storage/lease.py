"""Leases: exclusive locks in a bucket, which has no lock that falls with its holder.

The lease on a path is a folder of numbered objects beside it. The object of the highest number says who holds the
lease, until it says ``released``, was not renewed for a minute by the bucket's own clock, or belongs to a process that
this machine knows to have ended. The next holder creates the next number, which only one can: a bucket needs nothing
but to create what does not exist.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from orchestrator.spec.errors import PrunesweepError
from orchestrator.spec.failures import StoreAway
from orchestrator.storage.bucket import Bucket

SECONDS = 60.0
"""Age at which a lease that was not renewed is free."""
_RENEWALS = 4
_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Holder:
    """A process that holds, or held, a lease."""

    host: str
    pid: int
    machine: str
    """Start of the machine and namespace of its process numbers: processes of equal numbers differ in it."""
    started: str
    """Start of the process; its number may be another's by now."""
    token: str
    released: bool = False

    @classmethod
    def here(cls) -> Holder:
        """Return this process as a holder."""
        return cls(platform.node(), os.getpid(), _machine(), _start_of(os.getpid()), secrets.token_hex(8))

    @property
    def has_ended(self) -> bool:
        """Whether the process ran on this machine and does no more; False where that cannot be known."""
        return bool(self.machine) and self.machine == _machine() and _start_of(self.pid) != self.started


class LeaseHeld(PrunesweepError, ValueError):
    """Another process holds the lease."""

    def __init__(self, holder: Holder, age: float) -> None:
        self.holder, self.age = holder, age
        remaining = f"free in {max(1, round(SECONDS - age))} s if it was killed"
        super().__init__(f"host {holder.host}, pid {holder.pid}; last heard of {max(0, round(age))} s ago, {remaining}")


def lease_folder(path: Path) -> Path:
    """Return the folder of the lease on a path."""
    return path.with_name(f".{path.name.strip('.')}.lease")


def holder_of(bucket: Bucket, path: Path) -> Holder | None:
    """Return the process that holds the lease on `path` now."""
    return _current(bucket, lease_folder(path))[1]


@contextmanager
def acquire_lease(bucket: Bucket, path: Path, *, wait: bool = True) -> Iterator[Callable[[], bool]]:
    """Hold an exclusive lock on `path` across machines; yield a function that tells whether it was lost.

    It is lost where the bucket did not answer for a minute and another process took it over.

    Args:
        bucket: the bucket.
        path: what is locked, a path of the mirror.
        wait: block until the lease is free.

    Raises:
        LeaseHeld: another process holds it, and `wait` is False.
    """
    folder, holder = lease_folder(path), Holder.here()
    number = _take(bucket, folder, holder, wait)
    renewal = _Renewal(bucket, folder, number, holder)
    renewal.start()
    try:
        yield lambda: renewal.lost
    finally:
        renewal.stop()


def _take(bucket: Bucket, folder: Path, own: Holder, wait: bool) -> int:
    """Return the number of the object by which this process holds the lease."""
    while True:
        number, holder, age = _current(bucket, folder)
        if holder is None and bucket.create(_path(folder, number + 1), _encode(own)):
            numbers = _numbers(bucket, folder)
            if max(numbers, default=0) == number + 1:
                for earlier in numbers:
                    if earlier <= number:
                        bucket.delete(_path(folder, earlier))
                return number + 1
            # A later holder came and cleared up before this object was created.
            bucket.delete(_path(folder, number + 1))
        elif holder is not None:
            if not wait:
                raise LeaseHeld(holder, age)
            time.sleep(_POLL_SECONDS)


def _current(bucket: Bucket, folder: Path) -> tuple[int, Holder | None, float]:
    """Return the highest number, who holds the lease by it (None: nobody), and the seconds since it was renewed."""
    objects = {int(name): info for name, info in bucket.list_objects(folder).items() if name.isdecimal()}
    if not objects:
        return 0, None, 0.0
    number = max(objects)
    holder = _decode(bucket.read(_path(folder, number)))
    if holder is None or holder.released or holder.has_ended:
        return number, None, 0.0
    age = bucket.now(folder) - objects[number].modified
    return number, holder if age <= SECONDS else None, age


def _numbers(bucket: Bucket, folder: Path) -> list[int]:
    return sorted(int(name) for name in bucket.list_objects(folder) if name.isdecimal())


class _Renewal:
    """The thread that renews a lease until it is released."""

    def __init__(self, bucket: Bucket, folder: Path, number: int, holder: Holder) -> None:
        self._bucket, self._folder, self._number, self._holder = bucket, folder, number, holder
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self.lost = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Release the lease."""
        self._stopped.set()
        self._thread.join()
        if not self.lost:
            with suppress(StoreAway):  # the lease ends by itself
                self._write(replace(self._holder, released=True))

    def _run(self) -> None:
        renewed = time.monotonic()
        while not self._stopped.wait(SECONDS / _RENEWALS):
            started = time.monotonic()
            try:
                # Late, because the process slept or the bucket did not answer: another may have come meanwhile.
                late = started - renewed > SECONDS / 2
                if late and max(_numbers(self._bucket, self._folder), default=0) > self._number:
                    self.lost = True
                    return
                self._write(self._holder)
                renewed = started
            except StoreAway:
                continue

    def _write(self, holder: Holder) -> None:
        self._bucket.write(_path(self._folder, self._number), _encode(holder))


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}"


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _decode(data: bytes | None) -> Holder | None:
    if data is None:
        return None  # deleted by the next holder meanwhile
    try:
        values = json.loads(data)
        return Holder(**{field.name: values[field.name] for field in fields(Holder)})
    except (ValueError, TypeError, KeyError):
        # Written by another version: held by somebody all the same, for a minute.
        return Holder("unknown", 0, "", "", "")


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """Return when a process started, in clock ticks since the machine did; empty where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    values = stat.rpartition(")")[2].split()
    # A zombie has ended: only its parent has not asked yet.
    return "" if values[0] == "Z" else values[19]
