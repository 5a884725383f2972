"""The objects of a bucket, named by the paths of the folder of this machine that mirrors them.

The bucket is the truth. Everything else in the package reads and writes the mirror. What other machines must know is
uploaded before it appears in the mirror, and what the mirror lacks is downloaded before a command reads it.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.spec.errors import SpecError
from orchestrator.spec.failures import StoreAway, store_unavailable
from orchestrator.spec.redacting import redacted
from orchestrator.storage.atomic import replacing_folder, temporary_path
from orchestrator.storage.object_info import ObjectInfo, is_current, object_info_of

PATIENCE = 120.0
"""Seconds for which workers and drivers wait for a bucket that does not answer, beyond what its client library does."""
_UNANSWERED = frozenset({"HTTPClientError", "ClientConnectionError", "TimeoutError", "ConnectionError", "HttpError"})
_BUSY = frozenset({errno.EBUSY, errno.EIO, errno.EREMOTEIO})
_ATTEMPTS = 5
_FILES_A_CALL = 500
"""Objects fetched by one call of the client library, which fetches many at a time."""

Answer = TypeVar("Answer")


def open_bucket(uri: str, mirror: Path, patience: float = 0.0) -> Bucket:
    """Return a bucket, ready to use.

    Args:
        uri: of the bucket: `s3://name` or `gs://name`.
        mirror: the folder of this machine that mirrors the whole bucket.
        patience: seconds for which a bucket that does not answer is tried again.

    Raises:
        SpecError: the client library of such buckets is not installed.
    """
    import fsspec

    scheme = uri.partition("://")[0]
    # It writes a traceback wherever an object exists that was to be created: half of what leases do.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    try:
        # A listing that is cached hides what other machines write.
        return Bucket(fsspec.filesystem(scheme, use_listings_cache=False), uri, mirror, patience)
    except ImportError as error:
        command = f"pip install 'prunesweep[{scheme}]'"
        raise SpecError("--out", f"{uri} cannot be reached from here ({error}): {command}") from error


class Bucket:
    """The objects of one bucket. Every method raises :class:`StoreAway` where the bucket does not answer.

    Args:
        system: fsspec's file system.
        uri: of the bucket.
        mirror: the folder of this machine that mirrors it.
        patience: seconds for which a bucket that does not answer is tried again. They are spent once: after that
            every call fails at once, until one is answered.
    """

    def __init__(self, system: Any, uri: str, mirror: Path, patience: float = 0.0) -> None:
        self._system, self._uri, self._mirror = system, uri, mirror
        self._patience = patience
        self._given_up = False
        self._clock_offset: float | None = None

    def uri_of(self, path: Path) -> str:
        """Return the URI of the object that a path of the mirror stands for."""
        return f"{self._uri.partition('://')[0]}://{self._key(path)}".rstrip("/")

    def create(self, path: Path, data: bytes) -> bool:
        """Create an object unless it exists; return whether `data` is what it holds now."""

        def attempt() -> bool:
            try:
                self._system.pipe_file(self._key(path), data, mode="create")
                return True
            except FileExistsError:
                return False
            except OSError as error:
                # Servers word the refusal differently. Two writers at once may be told to try again.
                if error.errno in {errno.EINVAL, *_BUSY} and self._system.exists(self._key(path)):
                    return False
                raise

        # A client library tries again by itself, and is then refused by what its first try made.
        return self._retry(attempt) or self.read(path) == data

    def write(self, path: Path, data: bytes) -> None:
        """Create an object, or replace it whole."""
        self._retry(lambda: self._system.pipe_file(self._key(path), data))

    def read(self, path: Path) -> bytes | None:
        """Return the content of an object, or None where there is none."""
        try:
            return bytes(self._retry(lambda: self._system.cat_file(self._key(path))))
        except FileNotFoundError:
            return None

    def upload(self, path: Path, file: Path | None = None) -> None:
        """Upload a file, or `file` under the name of `path`; an earlier object is replaced whole."""
        self._retry(lambda: self._system.put_file(str(file or path), self._key(path)))

    def list_objects(self, folder: Path) -> dict[str, ObjectInfo]:
        """Return the objects below a folder, by their path in it."""
        key = self._key(folder)
        parent, _, name = key.rpartition("/")
        # As a prefix: where there is nothing below a path, two more requests would ask whether it is an object.
        prefix = {"prefix": f"{name}/"} if parent else {}
        try:
            objects = self._retry(lambda: self._system.find(parent or key, detail=True, **prefix))
        except FileNotFoundError:
            return {}
        start = len(key) + 1
        return {name[start:]: object_info_of(facts) for name, facts in objects.items() if len(name) > start}

    def list_folders(self, folder: Path) -> list[str]:
        """Return the names of the folders in a folder."""
        try:
            entries = self._retry(lambda: self._system.ls(self._key(folder), detail=True))
        except FileNotFoundError:
            return []
        return sorted(facts["name"].rstrip("/").rpartition("/")[2] for facts in entries if facts["type"] == "directory")

    def delete(self, path: Path) -> None:
        """Delete an object, if it exists; the mirror stays as it is."""
        with suppress(FileNotFoundError):
            self._retry(lambda: self._system.rm_file(self._key(path)))

    def delete_folder(self, folder: Path) -> None:
        """Delete every object below a folder; the mirror stays as it is."""
        for name in self.list_objects(folder):
            self.delete(folder / name)

    def download(
        self, folder: Path, is_wanted: Callable[[str], bool], is_uploaded_first: Callable[[str], bool]
    ) -> None:
        """Bring files of a folder of the mirror up to date.

        Args:
            folder: whose objects are listed, all of them.
            is_wanted: whether to fetch an object, by its path in the folder.
            is_uploaded_first: whether an object exists before its copy in the mirror does: where the object is gone,
                the copy is removed.
        """
        for attempt in range(_ATTEMPTS):
            started = time.time()
            objects = self.list_objects(folder)
            stale = [name for name, info in objects.items() if is_wanted(name) and not is_current(folder / name, info)]
            try:
                for start in range(0, len(stale), _FILES_A_CALL):
                    self._fetch({folder / name: objects[name] for name in stale[start : start + _FILES_A_CALL]})
                break
            except FileNotFoundError:  # deleted between the two
                if attempt == _ATTEMPTS - 1:
                    raise
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            # Not what another process of this machine has written since.
            if (
                name not in objects
                and is_uploaded_first(name)
                and path.is_file()
                and path.stat().st_ctime < started - 1
            ):
                path.unlink(missing_ok=True)

    def download_folder(self, folder: Path) -> bool:
        """Replace a folder of the mirror by what the bucket holds, whole or not at all; return False if it is empty."""
        objects = self.list_objects(folder)
        if not objects:
            return False
        try:
            with replacing_folder(folder) as draft:
                self._fetch({draft / name: info for name, info in objects.items()}, moved=(draft, folder))
        except FileNotFoundError:
            return False  # deleted, or replaced, meanwhile
        return True

    def now(self, near: Path) -> float:
        """Return the seconds since 1970 by the bucket's clock, read once from a probe object beside `near`."""
        if self._clock_offset is None:
            probe = _probe(near.parent)
            self.write(probe, b"")
            written = object_info_of(self._retry(lambda: self._system.info(self._key(probe)))).modified
            self._clock_offset = written - time.monotonic()
            self.delete(probe)
        return time.monotonic() + self._clock_offset

    def check(self, folder: Path) -> None:
        """Try everything that a store needs of its bucket, without patience; takes half a second.

        Raises:
            StoreAway: the bucket cannot be reached, written, read or cleared, or does not refuse to create an object
                twice.
        """
        Bucket(self._system, self._uri, self._mirror)._check(_probe(folder))

    def _check(self, probe: Path) -> None:
        try:
            self.write(probe, b"1")
            try:
                if self.create(probe, b"2") or self.read(probe) != b"1":
                    raise StoreAway(f"{self._uri}: its server writes over what exists (it knows no If-None-Match)")
            finally:
                self.delete(probe)
        except FileNotFoundError as error:
            raise StoreAway(f"{self._uri}: {_first_line(error)}") from error

    def _fetch(self, files: dict[Path, ObjectInfo], moved: tuple[Path, Path] | None = None) -> None:
        """Fetch files, each whole or not at all; `moved`: the folder they go to, and the one they stand for."""
        keys = [self._key(moved[1] / path.relative_to(moved[0]) if moved else path) for path in files]
        drafts = [temporary_path(path) for path in files]
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._retry(lambda: self._system.get(keys, [str(draft) for draft in drafts]))
            for (path, info), draft in zip(files.items(), drafts, strict=True):
                # By its time a copy is known to be current.
                os.utime(draft, (info.modified, info.modified))
                os.replace(draft, path)
        finally:
            for draft in drafts:
                draft.unlink(missing_ok=True)

    def _key(self, path: Path) -> str:
        inside = Path(os.path.realpath(path.parent), path.name).relative_to(self._mirror)
        return "/".join((self._uri.partition("://")[2], *inside.parts))

    def _retry(self, call: Callable[[], Answer]) -> Answer:
        """Return the answer to a call; repeat it for as long as patience lasts where the bucket does not answer."""
        deadline = time.monotonic() + (0.0 if self._given_up else self._patience)
        pause = 1.0
        while True:
            try:
                answer = call()
                self._given_up = False
                return answer
            except (FileNotFoundError, FileExistsError, StoreAway):
                raise
            except Exception as problem:  # a client library's own, of many kinds
                if store_unavailable(problem):
                    raise  # the mirror's disk is full
                if not _may_pass(problem) or time.monotonic() + pause > deadline:
                    self._given_up = True
                    raise StoreAway(f"{self._uri}: {_first_line(problem)}") from problem
            time.sleep(pause)
            pause = min(2 * pause, 30.0)


def _probe(folder: Path) -> Path:
    return folder / f".preflight-{secrets.token_hex(8)}"


def _may_pass(problem: Exception) -> bool:
    """Return whether the same call may succeed later."""
    if isinstance(problem, PermissionError):
        return False
    kinds = {kind.__name__ for kind in type(problem).__mro__}
    return bool(kinds & _UNANSWERED) or (isinstance(problem, OSError) and problem.errno in _BUSY)


def _first_line(problem: BaseException) -> str:
    lines = redacted(str(problem)).strip().splitlines()
    return lines[0] if lines else type(problem).__name__
