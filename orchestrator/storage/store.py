"""The store as a value: a folder of this machine, or a bucket with the folder that mirrors it.

A store is opened once, at the edge: by the command line, by `run`, by a worker from the address that it is given. Every
function that writes to it, or fetches from it, takes it as its first argument; functions that only read take paths of
the folder. Paths are always those of `Store.folder`, also where the store is a bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.storage import atomic
from orchestrator.storage.bucket import Bucket, open_bucket
from orchestrator.storage.sweep_paths import is_record, is_uploaded_first
from orchestrator.storage.uri import mirror_of, store_folder, uri_of


@dataclass(frozen=True)
class Store:
    """Where sweeps lie.

    Args:
        folder: the folder of this machine that holds the store, or mirrors it.
        bucket: the bucket that `folder` mirrors; None: the folder itself is the store.
    """

    folder: Path
    bucket: Bucket | None = None

    @classmethod
    def open(cls, out: str | Path, patience: float | None = None) -> Store:
        """Return the store at a folder or at an `s3://` or `gs://` URI.

        Args:
            out: the folder or URI; `address` of a store opens the same store on another machine.
            patience: seconds for which a bucket that does not answer is tried again; None: not at all, as a person
                waits at a prompt.

        Raises:
            SpecError: `out` is neither a folder nor a URI of a bucket, or what reaches such a bucket is not installed.
        """
        folder = store_folder(out)
        uri = uri_of(folder)
        if uri is None:
            return cls(folder)
        scheme, _, key = uri.partition("://")
        bucket_uri = f"{scheme}://{key.partition('/')[0]}"
        return cls(folder, open_bucket(bucket_uri, mirror_of(bucket_uri), patience or 0.0))

    @property
    def address(self) -> str:
        """The URI of the bucket, or the path of the folder: what other machines open."""
        return self.address_of(self.folder)

    @property
    def cache(self) -> Path:
        """The folder of the stage outputs that all sweeps share."""
        return self.folder / "cache"

    def address_of(self, path: Path) -> str:
        """Return what to call a path of the store in messages: its URI in a bucket, else the path."""
        return str(path) if self.bucket is None else self.bucket.uri_of(path)

    def resolve(self) -> Store:
        """Return the same store with an absolute folder, free of links."""
        return replace(self, folder=self.folder.resolve())

    def write_once(self, path: Path, data: bytes) -> bool:
        """Write a file unless it exists; return whether this call wrote it.

        In a bucket the object decides, and the mirror shows the object.
        """
        if self.bucket is None:
            return atomic.write_once(path, data)
        written = self.bucket.create(path, data)
        standing = data if written else self.bucket.read(path)
        if standing is not None:
            with atomic.replacing(path) as temporary:
                temporary.write_bytes(standing)
        return written

    @contextmanager
    def replacing(self, path: Path) -> Iterator[Path]:
        """Yield a temporary path whose file replaces `path` when the block ends without an error, in a bucket first."""
        with atomic.replacing(path) as temporary:
            yield temporary
            if self.bucket is not None:
                self.bucket.upload(path, temporary)

    def write_marker(self, path: Path, text: str) -> None:
        """Write a small file that other processes, perhaps on other machines, look for."""
        with self.replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def read_marker(self, path: Path) -> str | None:
        """Return the text of a marker, or None where there is none."""
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            data = self.bucket.read(path) if self.bucket is not None else None
            return None if data is None else data.decode()

    def delete_marker(self, path: Path) -> None:
        """Delete a file, if it exists, here and in the bucket."""
        path.unlink(missing_ok=True)
        if self.bucket is not None:
            self.bucket.delete(path)

    def upload(self, paths: Iterable[Path]) -> None:
        """Send files of the mirror to the bucket, in this order; do nothing for a folder."""
        if self.bucket is not None:
            for path in paths:
                self.bucket.upload(path)

    def refresh(self, folder: Path) -> None:
        """Bring the records and search spaces of a sweep's, or a trial's, folder up to date with the bucket.

        Records that are gone from the bucket are removed. Networks, tables and reports stay as they are.
        """
        if self.bucket is not None:
            self.bucket.download(folder, is_record, is_uploaded_first)

    def download(self, trial_folder: Path) -> None:
        """Fetch everything that a trial left in the bucket, its network included."""
        if self.bucket is not None:
            self.bucket.download(trial_folder, lambda name: not name.startswith("."), lambda name: False)

    def cached_stages(self) -> set[tuple[str, str]] | None:
        """Return name and key of every stage output in the bucket; None for a folder, where a look is cheap."""
        if self.bucket is None:
            return None
        entries = (name.split("/") for name in self.bucket.list_objects(self.cache))
        return {(parts[0], parts[1]) for parts in entries if len(parts) == 3 and parts[2] == "stage.json"}

    def list_sweeps(self) -> list[str]:
        """Return the names of the sweeps."""
        if self.bucket is None:
            return sorted(path.parent.name for path in self.folder.glob("*/searchspace.yaml"))
        names = self.bucket.list_folders(self.folder)
        return [name for name in names if name != "cache" and not name.startswith(".")]
