"""What no sweep of a store in a bucket needs any more, by one listing of the store."""

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


def left_in_bucket(
    bucket: Bucket, out: Path, needed: Collection[tuple[str, str]] | None, *, idle: bool, seconds: float
) -> Iterator[tuple[Path, str, int]]:
    """Path in the mirror, what it is (``orphaned <stage>``, ``draft`` or ``lock``) and bytes.

    Args:
        bucket: of the store.
        out: the store.
        needed: stages, by name and key, that stay; None: all of them.
        idle: no driver runs any sweep of the store.
        seconds: a draft or a lease that was not written for so long has no holder.
    """
    now: float | None = None
    for name, stored in sorted(_entries(bucket.list_objects(out)).items()):
        size = sum(one.size for one in stored)
        output = _OUTPUT.fullmatch(name)
        if output is not None:
            stage, key = output.groups()
            if needed is not None and (stage, key) not in needed:
                yield out / name, f"orphaned {stage.replace('_', ' ')}", size
        elif idle:
            now = bucket.now(out / "cache") if now is None else now
            if now - max(one.modified for one in stored) > seconds:
                yield out / name, "lock" if _LEASE.fullmatch(name) else "draft", size


def _entries(listing: dict[str, ObjectInfo]) -> dict[str, list[ObjectInfo]]:
    """Objects by the stage output, checkpoint, lease or draft that they are part of; all others are left out."""
    found: dict[str, list[ObjectInfo]] = defaultdict(list)
    for name, stored in listing.items():
        for path in (name, name.rpartition("/")[0]):
            if any(kind.fullmatch(path) for kind in (_OUTPUT, _DRAFT, _LEASE)):
                found[path].append(stored)
    return found
