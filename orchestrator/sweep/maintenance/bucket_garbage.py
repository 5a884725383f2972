"""Find the objects of a store in a bucket that no sweep needs any more, by one listing of the store."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from orchestrator.storage.bucket import Bucket
from orchestrator.storage.object_info import ObjectInfo

_OUTPUT = re.compile(r"cache/([a-z_]+)/([0-9a-f]{12})")
_DRAFT = re.compile(r"cache/[a-z_]+/\.[0-9a-f]{12}-checkpoint|([^/]+/){0,2}\.(preflight|retreat)-[0-9a-f-]+")
_LEASE = re.compile(r"cache/[a-z_]+/\.[0-9a-f]{12}\.lease")


def unneeded_objects(
    bucket: Bucket, out: Path, needed: Collection[tuple[str, str]] | None, *, idle: bool, seconds: float
) -> Iterator[tuple[Path, str, int]]:
    """Yield path in the mirror, what it is (``orphaned <stage>``, ``draft`` or ``lock``) and bytes.

    Args:
        bucket: of the store.
        out: the store.
        needed: stages, by name and key, that stay; None: all of them.
        idle: no driver runs any sweep of the store.
        seconds: a draft or a lease that was not written for so long has no holder.
    """
    now: float | None = None
    for name, objects in sorted(_entries(bucket.list_objects(out)).items()):
        size = sum(object_info.size for object_info in objects)
        output = _OUTPUT.fullmatch(name)
        if output is not None:
            stage, key = output.groups()
            if needed is not None and (stage, key) not in needed:
                yield out / name, f"orphaned {stage.replace('_', ' ')}", size
        elif idle:
            now = bucket.now(out / "cache") if now is None else now
            if now - max(object_info.modified for object_info in objects) > seconds:
                yield out / name, "lock" if _LEASE.fullmatch(name) else "draft", size


def _entries(listing: dict[str, ObjectInfo]) -> dict[str, list[ObjectInfo]]:
    """Group objects by the stage output, checkpoint, lease or draft that they belong to; all others are left out."""
    entries: dict[str, list[ObjectInfo]] = defaultdict(list)
    for name, object_info in listing.items():
        for path in (name, name.rpartition("/")[0]):
            if any(kind.fullmatch(path) for kind in (_OUTPUT, _DRAFT, _LEASE)):
                entries[path].append(object_info)
    return entries
