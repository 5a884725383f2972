"""Where a trial runs: paths, device, threads. Never part of an id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from orchestrator.spec.errors import SpecError


@dataclass(frozen=True)
class Workspace:
    """Where, never what.

    Args:
        out: the store that all sweeps share (``runs/``).
        sweep: name of the sweep, a folder under ``out``.
        device: a torch device, e.g. ``cpu`` or ``cuda``.
        threads: arithmetic threads of the trial (the CPUs it was given).
        data_cache: where decoded images are kept on this machine; None: the user's cache folder.
    """

    out: Path
    sweep: str
    device: str = "cpu"
    threads: int = 1
    data_cache: Path | None = None

    @property
    def folder(self) -> Path:
        return self.out / self.sweep

    def trial_folder(self, trial_id: str) -> Path:
        return self.folder / "trials" / trial_id

    def stage_folder(self, stage: str, key: str) -> Path:
        return self.out / "cache" / stage / key


def store_folder(out: str | Path) -> Path:
    """The store as a folder of this machine; raises :class:`SpecError` for what is none, such as ``s3://bucket``."""
    if re.match(r"[A-Za-z][A-Za-z0-9+]+:/", str(out)):
        raise SpecError("--out", f"must be a folder (on a cluster, one that every machine sees), found {str(out)!r}")
    return Path(out).expanduser()
