"""Register the networks on a sweep's Pareto front in MLflow's model registry: exported and checked first."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.records.mlflow.descriptions import run_name
from orchestrator.records.mlflow.model_registry import PrunedNetwork, Registered
from orchestrator.records.mlflow.view import MlflowView
from orchestrator.records.parquet import load_table
from orchestrator.records.records import read_result
from orchestrator.records.sweep_summary import spread, summary_of
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths, TrialPaths

MOST = 10
"""Networks registered of one sweep at most; of a longer front, networks spread evenly over it."""

_SHOWN = ("accuracy", "val_accuracy", "dense_accuracy", "macs", "params")


@dataclass
class Registration:
    """What was registered."""

    name: str
    """Name of the registered model."""
    registered: list[Registered] = field(default_factory=list)
    """The network of the highest validation accuracy first."""
    left_out: list[str] = field(default_factory=list)
    """A line for each network that cannot be exported."""
    front: int = 0
    """Number of trials on the front, registered or not."""


def register(store: Store, folder: Path) -> Registration:
    """Export the networks on the front of a sweep (`MOST` of them) and register those that are not registered yet.

    Raises:
        SpecError: the search space cannot be read.
        MlflowFailure: MLflow is away, or has no run of a trial (`prunesweep sync` makes them).
        DamagedRecord: a record cannot be read.
    """
    from orchestrator.trial.exporting import ExportError

    space = SearchSpace.load(SweepPaths(folder).searchspace)
    front = summary_of(load_table(folder).to_pylist(), space.objectives).front
    chosen = sorted(spread(front, MOST), key=lambda row: row["val_accuracy"] or 0.0, reverse=True)
    done = Registration(space.name, front=len(front))
    networks = []
    for row in chosen:
        try:
            networks.append(_network(store, SweepPaths(folder).trial(row["trial_id"])))
        except ExportError as error:
            done.left_out.append(str(error))
    if networks:
        done.registered = MlflowView(folder.resolve().parent, space.name).register(networks)
    return done


def _network(store: Store, paths: TrialPaths) -> PrunedNetwork:
    import torch

    from orchestrator.trial.exporting import export_trial

    store.download(paths.folder)
    result = read_result(paths.result)
    program, cut = paths.program, paths.cut
    if not program.exists() or not cut.exists() or program.stat().st_mtime < cut.stat().st_mtime:
        export_trial(paths.folder, result.spec.data, "pt2")
    facts = json.loads(cut.read_text(encoding="utf-8"))
    shape = facts["shape"]
    return PrunedNetwork(
        trial_id=result.trial_id,
        program=program,
        digest=facts["sha256"],
        image=(shape["channels"], shape["size"], shape["size"]),
        classes=shape["classes"],
        torch_version=str(torch.__version__),
        title=f"{run_name(result)}, trial {result.trial_id}",
        metrics={name: result.metrics[name] for name in _SHOWN if name in result.metrics},
    )
