"""Size, time and checksum of a bucket's objects, and whether a file of this machine is a current copy of one."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.storage.checksums import md5_of


@dataclass(frozen=True)
class ObjectInfo:
    """Size, time and checksum of one object."""

    size: int
    """Bytes."""
    modified: float
    """Seconds since 1970, by the bucket's clock."""
    md5: str
    """MD5 of the content, in hexadecimal; empty where the bucket does not give it."""


def object_info_of(facts: dict[str, Any]) -> ObjectInfo:
    """Convert the description of an object by s3fs or gcsfs."""
    modified = facts.get("LastModified") or facts.get("mtime") or facts.get("updated")
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    tag = str(facts.get("ETag", "")).strip('"')
    md5 = b64decode(facts["md5Hash"]).hex() if "md5Hash" in facts else tag if len(tag) == 32 else ""
    # Some answers round to seconds, others do not.
    seconds = float(int(modified.timestamp())) if isinstance(modified, datetime) else 0.0
    return ObjectInfo(int(facts.get("size") or 0), seconds, md5)


def is_current(path: Path, info: ObjectInfo) -> bool:
    """Return whether a file holds what the object does, by size and time, or by MD5."""
    try:
        stat = path.stat()
    except OSError:
        return False
    if stat.st_size != info.size:
        return False
    return stat.st_mtime == info.modified or (bool(info.md5) and md5_of(path) == info.md5)
