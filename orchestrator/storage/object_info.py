"""What a bucket says of its objects, and whether a file of this machine is a copy of one as it is now."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ObjectInfo:
    """One object."""

    size: int
    modified: float
    """Seconds since 1970, by the bucket's clock."""
    md5: str
    """Of what it holds, in hexadecimal; empty where the bucket does not say."""


def object_info_of(facts: dict[str, Any]) -> ObjectInfo:
    """From what s3fs or gcsfs say of an object."""
    modified = facts.get("LastModified") or facts.get("mtime") or facts.get("updated")
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    tag = str(facts.get("ETag", "")).strip('"')
    md5 = b64decode(facts["md5Hash"]).hex() if "md5Hash" in facts else tag if len(tag) == 32 else ""
    # Some answers round to seconds, others do not.
    seconds = float(int(modified.timestamp())) if isinstance(modified, datetime) else 0.0
    return ObjectInfo(int(facts.get("size") or 0), seconds, md5)


def is_current(path: Path, stored: ObjectInfo) -> bool:
    """A file holds what the object does: known by size and time, or by its MD5."""
    try:
        here = path.stat()
    except OSError:
        return False
    if here.st_size != stored.size:
        return False
    return here.st_mtime == stored.modified or (bool(stored.md5) and _md5(path) == stored.md5)


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
