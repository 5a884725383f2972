"""The MLflow view of a sweep: one experiment, one parent run, one child run a trial; rebuildable.

A run is created with its tags in one transaction, filled with values and times taken from the record alone, and given
its final status last. So a run that is not final was left by a killed driver, and filling it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.records.mlflow.client import (
    MlflowFailure,
    client_alone,
    has_mlflow,
    make_database,
    reason_of,
    tracking_uri,
)
from orchestrator.records.mlflow.descriptions import run_name, run_note
from orchestrator.records.mlflow.model_registry import PrunedNetwork, Registered, register_networks
from orchestrator.records.mlflow.parent_run import describe, experiment_of, parent_of, run_address
from orchestrator.records.mlflow.payload import latency_metrics, latency_values, milliseconds, run_tags
from orchestrator.records.mlflow.trial_runs import NOTE, RECORD, Child, complete, fill, list_children
from orchestrator.records.records import Latency
from orchestrator.records.sweep_summary import SweepSummary
from orchestrator.spec.result import TrialResult

if TYPE_CHECKING:
    from mlflow import MlflowClient

ParentStatus = Literal["FINISHED", "FAILED", "KILLED"]

_STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "diverged": "FAILED"}
_FAILURES_IN_A_ROW = 3
"""After so many the server is taken to be down, and the rest of the batch waits for the next one."""


def log_report(store: Path, sweep: str, path: Path) -> bool:
    """Make a report's page an artifact of the sweep's parent run; False where the store has no MLflow.

    Raises:
        MlflowFailure: MLflow did not take it.
    """
    if not has_mlflow(store):
        return False
    MlflowView(store, sweep).attach(path)
    return True


class MlflowView:
    """The runs of one sweep. It connects when first used; one thread of one process uses it at a time.

    Args:
        out: the store that all sweeps share; it holds ``mlflow.db`` and ``mlartifacts/`` unless
            ``MLFLOW_TRACKING_URI`` names another place.
        sweep: name of the experiment and of the parent run.
        question: what the sweep is to answer: the descriptions of the experiment and of the parent run begin with it.
        searchspace: the search space as run, an artifact of the parent run.
    """

    def __init__(self, out: Path, sweep: str, *, question: str = "", searchspace: str = "") -> None:
        self.out = out
        self.sweep = sweep
        self._question = question
        self._searchspace = searchspace
        self._connection: tuple[MlflowClient, str, str] | None = None
        self._children: dict[str, Child] | None = None
        self.left_out: list[str] = []
        """Artifacts of trials that were larger than MLflow is given, each with its trial."""

    def start_parent(self) -> None:
        """Make the parent run, or take it up again."""
        with self._failures():
            client, _, parent = self._connect()
            if client.get_run(parent).info.status != "RUNNING":
                client.update_run(parent, status="RUNNING")

    def finish_parent(self, status: ParentStatus = "FINISHED", summary: SweepSummary | None = None) -> None:
        """End the parent run, with what the sweep has found; the next driver of the same sweep takes it up again."""
        with self._failures():
            client, experiment, parent = self._connect()
            if summary is not None:
                runs = {trial_id: child.run_id for trial_id, child in self._known_children().items()}
                describe(client, experiment, parent, self.sweep, self._question, summary, runs)
            client.set_terminated(parent, status)

    def attach(self, path: Path) -> None:
        """Make a file (the report) an artifact of the parent run."""
        with self._failures():
            client, _, parent = self._connect()
            client.log_artifact(parent, str(path))

    def register(self, networks: Sequence[PrunedNetwork]) -> list[Registered]:
        """Put pruned networks into the model registry, under the sweep's name, one version a trial.

        What is registered already stays as it is. The alias ``best`` goes to the first of the networks.

        Raises:
            MlflowFailure: MLflow did not take them, or has no run of one of the trials.
        """
        with self._failures():
            client, experiment, _ = self._connect()
            runs = {trial_id: child.run_id for trial_id, child in self._known_children().items()}
            return register_networks(client, experiment, self.sweep, networks, runs)

    def lacking(self, stamps: Mapping[str, str]) -> list[str]:
        """The trials of which no finished run shows the record; neither records nor runs are opened.

        Args:
            stamps: trial id -> the stamp of its record.

        Raises:
            MlflowFailure: MLflow cannot be asked.
        """
        with self._failures(waiting=frozenset(stamps)):
            known = self._known_children()
        shown = {i for i, stamp in stamps.items() if i in known and known[i].shows_record(stamp)}
        return [trial_id for trial_id in stamps if trial_id not in shown]

    def sync(
        self,
        results: Sequence[TrialResult],
        latencies: Mapping[str, Latency] | None = None,
        stamps: Mapping[str, str] | None = None,
    ) -> int:
        """Give every record exactly one finished run, and add latencies to it; returns how many runs were written.

        Args:
            results: the records.
            latencies: by trial id.
            stamps: by trial id, taken before the record was read. A run keeps that of the record it shows; one without
                is compared with its record again.

        Raises:
            MlflowFailure: some runs could not be written; all others were.
        """
        with self._failures(waiting=frozenset(result.trial_id for result in results)):
            self._complete(result.trial_id for result in results)
        written = 0
        failed: dict[str, str] = {}
        in_a_row = 0
        for result in results:
            trial_id = result.trial_id
            if in_a_row == _FAILURES_IN_A_ROW:
                failed[trial_id] = "not tried"
                continue
            try:
                written += self._sync_one(result, (latencies or {}).get(trial_id), (stamps or {}).get(trial_id))
                in_a_row = 0
            except Exception as error:
                failed[trial_id] = reason_of(error)
                in_a_row += 1
        if failed:
            self._disconnect()
            gone = in_a_row == _FAILURES_IN_A_ROW
            raise MlflowFailure(next(iter(failed.values())), frozenset(failed), unreachable=gone)
        return written

    def discard_all_but(self, trial_ids: Collection[str]) -> int:
        """Delete the runs of all other trials (their records were removed); returns how many."""
        with self._failures():
            client, _, _ = self._connect()
            self._children = None
            known = self._known_children()
            lost = known.keys() - set(trial_ids)
            for trial_id in lost:
                client.delete_run(known.pop(trial_id).run_id)
        return len(lost)

    def _sync_one(self, result: TrialResult, latency: Latency | None, stamp: str | None) -> int:
        from mlflow.entities import Metric, RunTag

        client, experiment, parent = self._connect()
        children = self._known_children()
        status, ended = _STATUS[result.status], milliseconds(result.ended)
        child = children.get(result.trial_id)
        record = {} if stamp is None else {RECORD: stamp}
        if child is not None and child.shows(status, ended):
            lacks = child.lacks(latency)
            if not lacks and stamp in (None, child.stamp):
                return 0
            metrics = [Metric(*point) for point in latency_metrics(latency, result)] if lacks else []
            client.log_batch(child.run_id, metrics, [], [RunTag(*tag) for tag in record.items()])
            written = int(lacks)
        else:
            name = run_name(result)
            tags = run_tags(result) | {NOTE: run_note(result, self.sweep, run_address(experiment, parent))} | record
            if child is None:
                labels = {**tags, "trial_id": result.trial_id, "mlflow.parentRunId": parent}
                started = milliseconds(result.started) or ended
                run = client.create_run(experiment, start_time=started, tags=labels, run_name=name)
                child = children[result.trial_id] = Child(run.info.run_id, name, tags=labels)
            elif child.name != name or child.final:
                # No longer final until it says all, or a kill now would leave a final run of two records.
                client.update_run(child.run_id, status="RUNNING", name=name)
                child.name, child.status = name, "RUNNING"
            self.left_out += [f"{result.trial_id}: {what}" for what in fill(client, child, result, latency, tags)]
            client.set_terminated(child.run_id, status, ended)
            child.status, child.end_time = status, ended
            written = 1
        child.latency |= latency_values(latency)
        child.stamp = stamp or child.stamp
        return written

    def _known_children(self) -> dict[str, Child]:
        if self._children is None:
            client, experiment, parent = self._connect()
            self._children = list_children(client, tracking_uri(self.out), experiment, parent)
        return self._children

    def _complete(self, trial_ids: Iterable[str]) -> None:
        """Learn all of the runs of these trials that is not known yet."""
        client, experiment, _ = self._connect()
        known = self._known_children()
        listed = {i: known[i] for i in trial_ids if i in known and not known[i].complete}
        found = complete(client, experiment, listed.values())
        for trial_id, child in listed.items():
            known[trial_id] = found[child.run_id]

    def _connect(self) -> tuple[MlflowClient, str, str]:
        if self._connection is None:
            with client_alone(self.out) as client:
                experiment = experiment_of(client, self.out, self.sweep)
                parent = parent_of(client, experiment, self.sweep, self._question, self._searchspace)
                self._connection = client, experiment, parent
        return self._connection

    def _disconnect(self) -> None:
        # After a failure it is unknown what got through: connect anew, and look again at what is there.
        self._connection = self._children = None

    @contextmanager
    def _failures(self, waiting: frozenset[str] = frozenset()) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._disconnect()
            raise MlflowFailure(reason_of(error), waiting) from error


__all__ = ["MlflowFailure", "MlflowView", "ParentStatus", "log_report", "make_database", "tracking_uri"]
