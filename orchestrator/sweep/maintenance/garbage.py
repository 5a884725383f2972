"""Remove what no sweep of a store needs: stage outputs of no trial, and files of killed processes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.records.records import DamagedRecord, read_results
from orchestrator.spec.errors import SpecError
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.stages import STAGE_NAMES
from orchestrator.storage.atomic import remove_folder
from orchestrator.storage.driver_lock import SweepLocked, exclude_driver
from orchestrator.storage.locks import LockUnavailable, acquire_lock
from orchestrator.storage.store import Store
from orchestrator.sweep.maintenance.bucket_garbage import unneeded_objects
from orchestrator.sweep.planning import plan, stages_of

_KEY = re.compile(r"[0-9a-f]{12}")
_DRAFT_OF_STAGE = re.compile(r"\.([0-9a-f]{12})-[0-9a-z]+")
_LOCK_OF_STAGE = re.compile(r"\.([0-9a-f]{12})\.lock")
_DRAFT = re.compile(
    r"\..+\.tmp|\..+\.claim|\.(model\.safetensors|cut\.json)\.\w+|\.searchspace\.yaml\.\d+|\.preflight-[0-9a-f-]+"
)
_DRAFT_SECONDS = 600.0
"""Age from which a draft has no writer: a worker may outlive its driver and still be writing."""


@dataclass(frozen=True)
class Removal:
    """A file or folder that was removed, or would be."""

    path: Path
    what: str
    """``orphaned <stage>``, ``draft`` or ``lock``."""
    bytes: int
    in_bucket: bool = False
    """It lies in the bucket; else in the folder, or the mirror, of this machine."""


@dataclass
class Cleaning:
    """What was removed, and what was kept."""

    removed: list[Removal] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Lines that say what was kept, and why."""


def clean(store: Store, *, dry_run: bool = False) -> Cleaning:
    """Remove what no sweep needs. Running sweeps are never touched; no other can start meanwhile.

    A stage output is needed if a recorded trial came from it, or a planned one will: of every search space in the
    store, those beside ``searchspace.yaml`` from earlier runs included. Where one sweep cannot be read, every stage
    output stays. Of a store in a bucket, the bucket and this machine's mirror are cleaned.
    """
    done = Cleaning()
    out, bucket = store.folder, store.bucket
    if bucket is not None:
        for name in store.list_sweeps():
            store.refresh(out / name)
    sweeps = sorted({path.parent for path in out.glob("*/searchspace*.yaml") if not path.parent.is_symlink()})
    with ExitStack() as locks:
        idle = []
        for folder in sweeps:
            try:
                locks.enter_context(exclude_driver(store, folder))
                idle.append(folder)
            except SweepLocked as busy:
                done.kept.append(f"{busy}; its folder, and all drafts and locks of the cache, stay")
        needed = _needed(sweeps, done.kept)
        garbage: list[Removal] = []
        if needed is not None:
            garbage += _orphans(store.cache, needed)
        if len(idle) == len(sweeps):
            garbage += _left_in_cache(store.cache)
            garbage += _drafts(out.glob(".preflight-*"))
        if bucket is not None:
            objects = unneeded_objects(bucket, out, needed, idle=len(idle) == len(sweeps), seconds=_DRAFT_SECONDS)
            garbage += [Removal(path, what, size, in_bucket=True) for path, what, size in objects]
        for folder in idle:
            garbage += _drafts(path for path in _below(folder) if path.is_file())
        done.removed = [removal for removal in garbage if dry_run or _remove(store, removal)]
    return done


def summary_lines(store: Store, done: Cleaning, *, dry_run: bool) -> list[str]:
    """Return what was done in lines: stage outputs and drafts by path, the number of locks, the sum of bytes."""
    verb = "would remove" if dry_run else "removed"
    lines = [f"kept: {line}" for line in done.kept]
    shown = [removal for removal in done.removed if removal.what != "lock"]
    for removal in shown:
        address = store.address_of(removal.path) if removal.in_bucket else removal.path
        lines.append(f"{verb} {removal.what} {address} ({removal.bytes:,} bytes)")
    total = sum(removal.bytes for removal in done.removed)
    locks = len(done.removed) - len(shown)
    return [*lines, f"{verb} {len(shown)} entries and {locks} locks, {total:,} bytes"]


def _needed(sweeps: Iterable[Path], kept: list[str]) -> set[tuple[str, str]] | None:
    """Return the stages (name and key) of every trial that is recorded or planned; None where one is not known."""
    needed: set[tuple[str, str]] = set()
    known = True
    for folder in sweeps:
        try:
            for result in read_results(folder):
                needed |= {(stage.name, stage.key) for stage in stages_of(result.spec)}
            for path in sorted(folder.glob("searchspace*.yaml")):
                planned = plan(SearchSpace.load(path), folder)
                needed |= {(stage.name, stage.key) for stage in planned.stages}
                if planned.to_draw:
                    kept.append(f"{path}: {planned.to_draw} trials still to be drawn: every stage output stays")
                    known = False
        except (SpecError, DamagedRecord, KeyError, ValueError) as error:
            kept.append(f"{folder}: it cannot be told which stages it needs, so every stage output stays: {error}")
            known = False
    return needed if known else None


def _orphans(cache: Path, needed: set[tuple[str, str]]) -> Iterator[Removal]:
    for name in STAGE_NAMES:
        for folder in _children(cache / name):
            if _KEY.fullmatch(folder.name) and folder.is_dir() and (name, folder.name) not in needed:
                yield Removal(folder, f"orphaned {name.replace('_', ' ')}", _size(folder))


def _left_in_cache(cache: Path) -> Iterator[Removal]:
    for name in STAGE_NAMES:
        for path in _children(cache / name):
            if _DRAFT_OF_STAGE.fullmatch(path.name) and path.is_dir() and _is_old(path):
                yield Removal(path, "draft", _size(path))
            elif _LOCK_OF_STAGE.fullmatch(path.name) and path.is_file():
                yield Removal(path, "lock", _size(path))


def _drafts(paths: Iterable[Path]) -> Iterator[Removal]:
    for path in paths:
        if _DRAFT.fullmatch(path.name) and not path.is_symlink() and _is_old(path):
            yield Removal(path, "draft", _size(path))


def _remove(store: Store, removal: Removal) -> bool:
    """Remove it; return False where another process removed it first, or holds its lock."""
    path = removal.path
    if removal.in_bucket:
        if store.bucket is not None:
            store.bucket.delete_folder(path)
            store.bucket.delete(path)
        return True
    try:
        if removal.what == "lock":
            with acquire_lock(path, wait=False):
                path.unlink()
        elif path.is_dir():
            remove_folder(path)
        else:
            path.unlink()
    except (FileNotFoundError, LockUnavailable):
        return False
    return True


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _below(folder: Path) -> Iterator[Path]:
    """Every path under a folder; links are not followed."""
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in names)


def _is_old(path: Path) -> bool:
    try:
        newest = max(inner.lstat().st_mtime for inner in [path, *_below(path)])
    except FileNotFoundError:
        return False
    return time.time() - newest > _DRAFT_SECONDS


def _size(path: Path) -> int:
    total = 0
    for inner in [path, *_below(path)]:
        with suppress(FileNotFoundError):
            if not inner.is_dir():
                total += inner.lstat().st_size
    return total
