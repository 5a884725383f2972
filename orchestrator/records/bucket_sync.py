"""The mirror of a store in a bucket, brought up to date; of a store in a folder there is nothing to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.atomic import replacing
from orchestrator.storage.bucket import bucket_of

_RECORDS = re.compile(r"searchspace(\.\d+)?\.yaml|(trials/[^/]+/)?(result|latency|drawn|cut)\.json|resources\.json")
_WRITTEN_FIRST = re.compile(r"searchspace\.yaml|(trials/[^/]+/)?(result|latency|drawn)\.json")


def refresh(folder: Path) -> None:
    """Have here what the bucket has of a sweep's, or a trial's, records and search space, and no record it has no more.

    Networks, tables and reports stay where they are: the first are large, the others are made from records.
    """
    bucket = bucket_of(folder)
    if bucket is not None:
        bucket.fetch(folder, _is_record, lambda name: _WRITTEN_FIRST.fullmatch(name) is not None)


def refresh_all(sweep_folder: Path, others: Iterable[str] | None = None) -> None:
    """The same for a sweep and those whose records it starts from: as named, or as its search space says."""
    refresh(sweep_folder)
    path = sweep_folder / "searchspace.yaml"
    if bucket_of(sweep_folder) is None or (others is None and not path.exists()):
        return
    for name in SearchSpace.load(path).search.warm_start if others is None else others:
        refresh(sweep_folder.parent / name)


def cached_stages(out: Path) -> set[tuple[str, str]] | None:
    """Name and key of every stage output in a bucket's cache; None where the store is a folder, which can be asked."""
    bucket = bucket_of(out)
    if bucket is None:
        return None
    entries = (name.split("/") for name in bucket.listing(out / "cache"))
    return {(parts[0], parts[1]) for parts in entries if len(parts) == 3 and parts[2] == "stage.json"}


def refresh_trial(trial_folder: Path) -> None:
    """Have here all that a trial left in its bucket, the pruned network too."""
    bucket = bucket_of(trial_folder)
    if bucket is not None:
        bucket.fetch(trial_folder, lambda name: not name.startswith("."), lambda name: False)


def upload(paths: Iterable[Path]) -> None:
    """Send files that were written here to the bucket, in this order."""
    for path in paths:
        bucket = bucket_of(path)
        if bucket is not None:
            bucket.put(path)


def sweeps_of(out: Path) -> list[str]:
    """Names of the sweeps in a store."""
    bucket = bucket_of(out)
    if bucket is None:
        return sorted(path.parent.name for path in out.glob("*/searchspace.yaml"))
    return [name for name in bucket.folders(out) if name != "cache" and not name.startswith(".")]


def _is_record(name: str) -> bool:
    return _RECORDS.fullmatch(name) is not None


def write_marker(path: Path, text: str) -> None:
    """Leave a small file that another process, perhaps on another machine, looks for."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_marker(path: Path) -> str | None:
    """What another process left, or None."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        bucket = bucket_of(path)
        found = bucket.read(path) if bucket is not None else None
        return None if found is None else found.decode()


def delete_marker(path: Path) -> None:
    """Take away what was left, if anything was."""
    path.unlink(missing_ok=True)
    bucket = bucket_of(path)
    if bucket is not None:
        bucket.remove(path)
