"""The store as a value: a folder of this machine, or a bucket with the folder that mirrors it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.storage import atomic
from orchestrator.storage.bucket import Bucket, bucket_of
from orchestrator.storage.uri import address_of, store_folder


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
            patience: seconds for which an unreachable bucket is tried again; None: the default of the command line.

        Raises:
            SpecError: `out` is neither a folder nor a URI of a bucket.
        """
        folder = store_folder(out)
        bucket = bucket_of(folder)
        if bucket is not None and patience is not None:
            bucket.patience = patience
        return cls(folder, bucket)

    @property
    def address(self) -> str:
        """The URI of the bucket, or the path of the folder: what other machines open."""
        return address_of(self.folder)

    def write_once(self, path: Path, data: bytes) -> bool:
        """Write a file unless it exists; return whether this call wrote it."""
        return atomic.write_once(path, data)

    def replacing(self, path: Path) -> AbstractContextManager[Path]:
        """Yield a temporary path whose file replaces `path` atomically when the block ends without an error."""
        return atomic.replacing(path)

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
        """Delete a marker, if it exists."""
        path.unlink(missing_ok=True)
        if self.bucket is not None:
            self.bucket.remove(path)

    def upload(self, paths: Iterable[Path]) -> None:
        """Send files of the mirror to the bucket, in this order; do nothing for a folder."""
        if self.bucket is not None:
            for path in paths:
                self.bucket.put(path)
