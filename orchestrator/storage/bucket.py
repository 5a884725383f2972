"""A store in a bucket: the bucket is the truth, a folder of this machine its mirror; every path here is the mirror's.

Everything else in the package reads and writes the mirror. What other machines must know goes up before it is seen in
the mirror, and what the mirror lacks is fetched before a command reads it.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.spec.errors import SpecError, StoreAway, out_of_space
from orchestrator.spec.redacting import redacted
from orchestrator.storage.lease import leased
from orchestrator.storage.object_info import ObjectInfo, is_current, object_info_of
from orchestrator.storage.uri import uri_of

PATIENCE = 120.0
"""Seconds for which workers and drivers wait for a bucket that is away, beyond what its client library does."""
_AWAY = frozenset({"HTTPClientError", "ClientConnectionError", "TimeoutError", "ConnectionError", "HttpError"})
_BUSY = frozenset({errno.EBUSY, errno.EIO, errno.EREMOTEIO})
_ATTEMPTS = 5
_MOST = 500
"""Objects that are fetched by one call of the client library, which does many at a time."""

Answer = TypeVar("Answer")


def bucket_of(path: Path) -> Bucket | None:
    """The bucket that a path of this machine mirrors, ready to use; None where it mirrors nothing.

    Raises:
        SpecError: what is needed to reach such a bucket is not installed, or it is another server's.
    """
    uri = uri_of(path)
    if uri is None:
        return None
    scheme, _, place = uri.partition("://")
    name, *inside = place.split("/")
    root = Path(os.path.realpath(path))
    for _ in inside:
        root = root.parent
    return _opened(scheme, name, root)


@cache
def _opened(scheme: str, name: str, root: Path) -> Bucket:
    import fsspec

    # It writes a traceback wherever an object exists that was to be created: half of what leases ask.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    try:
        # A listing that is remembered hides what other machines write.
        return Bucket(fsspec.filesystem(scheme, use_listings_cache=False), f"{scheme}://{name}", root)
    except ImportError as error:
        wanted = f"pip install 'prunesweep[{scheme}]'"
        raise SpecError("--out", f"{scheme}://{name} cannot be reached from here ({error}): {wanted}") from error


class Bucket:
    """The objects of one bucket. Every method raises :class:`StoreAway` where the bucket does not answer.

    Args:
        system: fsspec's file system.
        uri: the bucket's.
        root: its mirror.
    """

    def __init__(self, system: Any, uri: str, root: Path) -> None:
        self._system, self._uri, self._root = system, uri, root
        self._ahead: float | None = None
        self.patience = 0.0
        """Seconds to wait for a bucket that is away, once; a person at a prompt would rather know."""
        self._given_up = False

    def create(self, path: Path, data: bytes) -> bool:
        """Make an object unless it exists; whether `data` is what it holds now."""

        def attempt() -> bool:
            try:
                self._system.pipe_file(self._key(path), data, mode="create")
                return True
            except FileExistsError:
                return False
            except OSError as error:
                # Not every server words its refusal alike. Two at once may be told to try again.
                if error.errno in {errno.EINVAL, *_BUSY} and self._system.exists(self._key(path)):
                    return False
                raise

        # A client library tries again by itself, and then finds what its first try made.
        return self._ask(attempt) or self.read(path) == data

    def write(self, path: Path, data: bytes) -> None:
        """Make an object, or replace it whole."""
        self._ask(lambda: self._system.pipe_file(self._key(path), data))

    def read(self, path: Path) -> bytes | None:
        """What an object holds; None where there is none."""
        try:
            return bytes(self._ask(lambda: self._system.cat_file(self._key(path))))
        except FileNotFoundError:
            return None

    def put(self, path: Path, file: Path | None = None) -> None:
        """Send a file, by the name it has yet where that is another; an earlier object is replaced whole."""
        self._ask(lambda: self._system.put_file(str(file or path), self._key(path)))

    def listing(self, folder: Path) -> dict[str, ObjectInfo]:
        """The objects below a folder, by their path in it."""
        key = self._key(folder)
        place, _, name = key.rpartition("/")
        # As a prefix: where there is nothing below a path, two more requests would ask whether it is an object.
        more = {"prefix": f"{name}/"} if place else {}
        try:
            found = self._ask(lambda: self._system.find(place or key, detail=True, **more))
        except FileNotFoundError:
            return {}
        start = len(key) + 1
        return {name[start:]: object_info_of(facts) for name, facts in found.items() if len(name) > start}

    def folders(self, folder: Path) -> list[str]:
        """Names of the folders in a folder."""
        try:
            found = self._ask(lambda: self._system.ls(self._key(folder), detail=True))
        except FileNotFoundError:
            return []
        return sorted(facts["name"].rstrip("/").rpartition("/")[2] for facts in found if facts["type"] == "directory")

    def remove(self, path: Path) -> None:
        """Remove an object, if it is there; the mirror stays as it is."""
        with suppress(FileNotFoundError):
            self._ask(lambda: self._system.rm_file(self._key(path)))

    def clear(self, folder: Path) -> None:
        """Remove all below a folder; the mirror stays as it is."""
        for name in self.listing(folder):
            self.remove(folder / name)

    def fetch(self, folder: Path, wanted: Callable[[str], bool], written_first: Callable[[str], bool]) -> None:
        """Bring the mirror of a folder up to date.

        Args:
            folder: whose objects are listed, all of them.
            wanted: whether to have an object here, by its path in the folder.
            written_first: whether an object is in the bucket before it is in the mirror: a copy of one that is not
                there any more is removed.
        """
        for attempt in range(_ATTEMPTS):
            began = time.time()
            there = self.listing(folder)
            lacking = [name for name, stored in there.items() if wanted(name) and not is_current(folder / name, stored)]
            try:
                for start in range(0, len(lacking), _MOST):
                    self._get({folder / name: there[name] for name in lacking[start : start + _MOST]})
                break
            except FileNotFoundError:  # removed between the two
                if attempt == _ATTEMPTS - 1:
                    raise
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            # Not what another process of this machine has written since.
            if name not in there and written_first(name) and path.is_file() and path.stat().st_ctime < began - 1:
                path.unlink(missing_ok=True)

    def take(self, folder: Path) -> bool:
        """Make a folder of the mirror what it is in the bucket, whole or not at all; False where there is nothing."""
        there = self.listing(folder)
        if not there:
            return False
        draft = folder.with_name(f".{folder.name.strip('.')}-{secrets.token_hex(4)}")
        try:
            self._get({draft / name: stored for name, stored in there.items()}, base=(draft, folder))
            if folder.exists():
                shutil.rmtree(folder)
            os.rename(draft, folder)
        except FileNotFoundError:
            return False  # it was removed, or replaced, meanwhile
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return True

    @contextmanager
    def alone(self, path: Path) -> Iterator[None]:
        """Wait until no process of any machine is alone with this path, then be it."""
        with leased(self, lease_of(path), wait=True):
            yield

    def now(self, near: Path) -> float:
        """Seconds since 1970, by the bucket's own clock, which is read from an object that is made beside a path."""
        if self._ahead is None:
            probe = near.with_name(f".preflight-{secrets.token_hex(8)}")
            self.write(probe, b"")
            made = object_info_of(self._ask(lambda: self._system.info(self._key(probe)))).modified
            self._ahead = made - time.monotonic()
            self._ask(lambda: self._system.rm_file(self._key(probe)))
        return time.monotonic() + self._ahead

    def check(self, folder: Path) -> None:
        """Try all that a store asks of its bucket; takes half a second.

        Raises:
            StoreAway: it cannot be reached, written, read or cleared, or does not keep an object from being made twice.
        """
        probe = folder / f".preflight-{secrets.token_hex(8)}"
        try:
            self._ask(lambda: self._system.pipe_file(self._key(probe), b"1"))
            try:
                if self.create(probe, b"2") or self.read(probe) != b"1":
                    raise StoreAway(f"{self._uri}: its server writes over what exists (it knows no If-None-Match)")
            finally:
                self._ask(lambda: self._system.rm_file(self._key(probe)))
        except FileNotFoundError as error:
            raise StoreAway(f"{self._uri}: {_line(error)}") from error

    def _get(self, files: dict[Path, ObjectInfo], base: tuple[Path, Path] | None = None) -> None:
        """Fetch files, each whole or not at all; `base`: a folder they go to, and the one whose objects they are."""
        sources = [self._key(base[1] / path.relative_to(base[0]) if base else path) for path in files]
        drafts = [path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp") for path in files]
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._ask(lambda: self._system.get(sources, [str(draft) for draft in drafts]))
            for (path, stored), draft in zip(files.items(), drafts, strict=True):
                # By its time a copy is known to be current.
                os.utime(draft, (stored.modified, stored.modified))
                os.replace(draft, path)
        finally:
            for draft in drafts:
                draft.unlink(missing_ok=True)

    def _key(self, path: Path) -> str:
        inside = Path(os.path.realpath(path.parent), path.name).relative_to(self._root)
        return "/".join((self._uri.partition("://")[2], *inside.parts))

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        deadline = time.monotonic() + (0.0 if self._given_up else self.patience)
        pause = 1.0
        while True:
            try:
                answer = call()
                self._given_up = False
                return answer
            except (FileNotFoundError, FileExistsError, StoreAway):
                raise
            except Exception as problem:  # a client library's own, of many kinds
                if out_of_space(problem):
                    raise  # the mirror's disk is full
                if not _may_pass(problem) or time.monotonic() + pause > deadline:
                    self._given_up = True
                    raise StoreAway(f"{self._uri}: {_line(problem)}") from problem
            time.sleep(pause)
            pause = min(2 * pause, 30.0)


def lease_of(path: Path) -> Path:
    """The folder of the lease on a path, beside it."""
    return path.with_name(f".{path.name.strip('.')}.lease")


def _may_pass(problem: Exception) -> bool:
    """It may go well another time."""
    if isinstance(problem, PermissionError):
        return False
    kinds = {kind.__name__ for kind in type(problem).__mro__}
    return bool(kinds & _AWAY) or (isinstance(problem, OSError) and problem.errno in _BUSY)


def _line(problem: BaseException) -> str:
    lines = redacted(str(problem)).strip().splitlines()
    return lines[0] if lines else type(problem).__name__
