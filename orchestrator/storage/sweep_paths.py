"""The layout of a sweep's folder: which file lies where, and which of them a bucket's mirror keeps up to date."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RESULT = "result.json"
_RECORDS = re.compile(r"searchspace(\.\d+)?\.yaml|(trials/[^/]+/)?(result|latency|drawn|cut)\.json|resources\.json")
_UPLOADED_FIRST = re.compile(r"searchspace\.yaml|(trials/[^/]+/)?(result|latency|drawn)\.json")


@dataclass(frozen=True)
class TrialPaths:
    """Files of one trial.

    Args:
        folder: the trial's folder, `trials/<trial id>` in the sweep's.
    """

    folder: Path

    @property
    def result(self) -> Path:
        """The record of the trial, written once."""
        return self.folder / RESULT

    @property
    def latency(self) -> Path:
        """The latency, measured after the trial."""
        return self.folder / "latency.json"

    @property
    def drawn(self) -> Path:
        """The point that an adaptive search drew, written before the trial starts."""
        return self.folder / "drawn.json"

    @property
    def network(self) -> Path:
        """The tensors of the pruned network."""
        return self.folder / "model.safetensors"

    @property
    def cut(self) -> Path:
        """The description of the cut, written after `network`."""
        return self.folder / "cut.json"

    @property
    def program(self) -> Path:
        """The pruned network as a `torch.export` program."""
        return self.folder / "model.pt2"

    @property
    def checkpoint(self) -> Path:
        """The folder of the trial's last epoch checkpoint."""
        return self.folder / ".checkpoint"

    def stop_marker(self, rung: int) -> Path:
        """The marker that stops the trial at a rung. Each rung has a name of its own: NFS caches missing names."""
        return self.folder / f".stop-{rung}"


@dataclass(frozen=True)
class SweepPaths:
    """Files of one sweep.

    Args:
        folder: the sweep's folder in the store, or in the mirror of a bucket.
    """

    folder: Path

    @property
    def searchspace(self) -> Path:
        """The search space as last run."""
        return self.folder / "searchspace.yaml"

    @property
    def searchspaces(self) -> list[Path]:
        """The search space as last run and those of earlier runs, sorted."""
        return sorted(self.folder.glob("searchspace*.yaml"))

    @property
    def trials(self) -> Path:
        """The folder of the trials' folders."""
        return self.folder / "trials"

    @property
    def resources(self) -> Path:
        """The allocation that `resources: auto` resulted in, and why."""
        return self.folder / "resources.json"

    @property
    def journal(self) -> Path:
        """The journal of an adaptive search for Optuna's dashboard; a view of the records."""
        return self.folder / "optuna.journal"

    @property
    def parquet(self) -> Path:
        """The folder of the Parquet views."""
        return self.folder / "parquet"

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.folder / "report"

    @property
    def driver_lock(self) -> Path:
        """The file that the sweep's driver locks."""
        return self.folder / ".driver"

    def drawn_trials(self) -> list[TrialPaths]:
        """Return the paths of the trials that an adaptive search drew, in the order of trial ids."""
        return [TrialPaths(path.parent) for path in sorted(self.trials.glob("*/drawn.json"))]

    def trial(self, trial_id: str) -> TrialPaths:
        """Return the paths of one trial."""
        return TrialPaths(self.trials / trial_id)

    def view(self, name: str) -> Path:
        """Return the path of a Parquet view: `trials`, `epochs` or `layers`."""
        return self.parquet / f"{name}.parquet"


def is_record(name: str) -> bool:
    """Return whether a path, relative to a sweep's or a trial's folder, is kept up to date in a mirror.

    Records and search spaces are. Networks are large; tables and reports are made from records.
    """
    return _RECORDS.fullmatch(name) is not None


def is_uploaded_first(name: str) -> bool:
    """Return whether such a file is in the bucket before it is in the mirror: without an object, a copy is stale."""
    return _UPLOADED_FIRST.fullmatch(name) is not None
