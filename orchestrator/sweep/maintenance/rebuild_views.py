"""Rebuild the views of a sweep from its records, after MLflow was away or a view was lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.records.mlflow.view import MlflowFailure, MlflowView, tracking_uri
from orchestrator.records.records import recorded_ids
from orchestrator.records.views import ViewWriter
from orchestrator.spec.redacting import redacted
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.driver_lock import exclude_driver
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.sweep.planning import plan


@dataclass(frozen=True)
class Synced:
    """What the views show after a rebuild."""

    trials: int
    discarded: int
    """Number of runs of trials that have no record any more."""
    uri: str
    """Of MLflow, without secrets."""
    warnings: list[str]
    """A line for each incomplete view."""


def sync(store: Store, folder: Path) -> Synced:
    """Update Parquet and MLflow from the records of a sweep; doing it again changes nothing.

    Raises:
        SweepLocked: the sweep is running; its driver keeps the views.
        SpecError: its search space cannot be read.
    """
    path = SweepPaths(folder).searchspace
    space = SearchSpace.load(path)
    store = replace(store, folder=folder.resolve().parent)
    with exclude_driver(store, folder):
        recorded = recorded_ids(folder)
        complete = plan(space, folder).total <= len(recorded)
        writer = ViewWriter(store, space.name, question=space.question or "", searchspace=path.read_text("utf-8"))
        warnings = writer.close("FINISHED" if complete else "KILLED")
        discarded = 0
        if not warnings:
            try:
                discarded = MlflowView(store.folder, space.name).discard_all_but(recorded)
            except MlflowFailure as error:
                warnings.append(f"MLflow view is not complete: {error}")
    return Synced(len(recorded), discarded, redacted(tracking_uri(store.folder)), warnings)
