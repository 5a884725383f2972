"""The MLflow view of a sweep: one experiment, one parent run, one child run a trial; rebuilt from records at any time.

A run is created with its tags in one transaction, filled with values and times from the record alone, and given its
final status last. So a run that is not final was left by a killed driver, and filling it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.records.mlflow.client import (
    MlflowFailure,
    has_mlflow,
    locked_client,
    make_database,
    one_line,
    tracking_uri,
)
from orchestrator.records.mlflow.descriptions import run_description, run_name
from orchestrator.records.mlflow.model_registry import PrunedNetwork, Registered, register_networks
from orchestrator.records.mlflow.parent_run import open_experiment, open_parent_run, run_url, update_summary
from orchestrator.records.mlflow.payload import latency_metrics, latency_values, milliseconds, run_tags
from orchestrator.records.mlflow.trial_runs import NOTE, RECORD, Child, fill_run, list_children, load_details
from orchestrator.records.records import Latency
from orchestrator.records.sweep_summary import SweepSummary
from orchestrator.spec.result import TrialResult

if TYPE_CHECKING:
    from mlflow import MlflowClient

ParentStatus = Literal["FINISHED", "FAILED", "KILLED"]

_STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "diverged": "FAILED"}
_FAILURES_IN_A_ROW = 3
"""Failures after which the server counts as down, and the rest of the batch waits for the next attempt."""


def log_report(store: Path, sweep: str, path: Path) -> bool:
    """Log a report's page as an artifact of the parent run; return whether the store has MLflow.

    Raises:
        MlflowFailure: MLflow refused it, or does not answer.
    """
    if not has_mlflow(store):
        return False
    MlflowView(store, sweep).attach(path)
    return True


class MlflowView:
    """The runs of one sweep. It connects on first use, and is for one thread.

    Args:
        out: the store's folder, which holds ``mlflow.db`` and ``mlartifacts/`` unless ``MLFLOW_TRACKING_URI`` names a
            server.
        sweep: name of the experiment and of the parent run.
        question: first line of the descriptions of the experiment and of the parent run.
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
        """Artifacts that were too large for MLflow, each with its trial."""

    def start_parent(self) -> None:
        """Create the parent run, or reopen it."""
        with self._failures():
            client, _, parent = self._connect()
            if client.get_run(parent).info.status != "RUNNING":
                client.update_run(parent, status="RUNNING")

    def finish_parent(self, status: ParentStatus = "FINISHED", summary: SweepSummary | None = None) -> None:
        """End the parent run, with a summary of the sweep; the next driver of the sweep reopens it."""
        with self._failures():
            client, experiment, parent = self._connect()
            if summary is not None:
                runs = {trial_id: child.run_id for trial_id, child in self._known_children().items()}
                update_summary(client, experiment, parent, self.sweep, self._question, summary, runs)
            client.set_terminated(parent, status)

    def attach(self, path: Path) -> None:
        """Log a file (the report) as an artifact of the parent run."""
        with self._failures():
            client, _, parent = self._connect()
            client.log_artifact(parent, str(path))

    def register(self, networks: Sequence[PrunedNetwork]) -> list[Registered]:
        """Register pruned networks in the model registry under the sweep's name, one version a trial.

        Networks that are registered already stay as they are. The alias ``best`` goes to the first of the networks.

        Raises:
            MlflowFailure: MLflow refused them, does not answer, or has no run of one of the trials.
        """
        with self._failures():
            client, experiment, _ = self._connect()
            runs = {trial_id: child.run_id for trial_id, child in self._known_children().items()}
            return register_networks(client, experiment, self.sweep, networks, runs)

    def outdated(self, fingerprints: Mapping[str, str]) -> list[str]:
        """Return the trials whose record no finished run shows; neither records nor runs are read.

        Args:
            fingerprints: fingerprint of the record, by trial id.

        Raises:
            MlflowFailure: MLflow does not answer.
        """
        with self._failures(waiting=frozenset(fingerprints)):
            known = self._known_children()
        return [i for i, text in fingerprints.items() if i not in known or not known[i].shows_record(text)]

    def sync(
        self,
        results: Sequence[TrialResult],
        latencies: Mapping[str, Latency] | None = None,
        fingerprints: Mapping[str, str] | None = None,
    ) -> int:
        """Write exactly one finished run for every record, with its latency; return how many runs were written.

        Args:
            results: the records.
            latencies: latency, by trial id.
            fingerprints: fingerprint of the record, by trial id, taken before the record was read. A run keeps that of
                the record it shows; a run without one is compared with its record again.

        Raises:
            MlflowFailure: some runs could not be written; all others were.
        """
        with self._failures(waiting=frozenset(result.trial_id for result in results)):
            self._load_details(result.trial_id for result in results)
        written = 0
        failed: dict[str, str] = {}
        in_a_row = 0
        for result in results:
            trial_id = result.trial_id
            if in_a_row == _FAILURES_IN_A_ROW:
                failed[trial_id] = "not tried"
                continue
            try:
                written += self._sync_one(result, (latencies or {}).get(trial_id), (fingerprints or {}).get(trial_id))
                in_a_row = 0
            except Exception as error:
                failed[trial_id] = one_line(error)
                in_a_row += 1
        if failed:
            self._disconnect()
            unreachable = in_a_row == _FAILURES_IN_A_ROW
            raise MlflowFailure(next(iter(failed.values())), frozenset(failed), unreachable=unreachable)
        return written

    def discard_all_but(self, trial_ids: Collection[str]) -> int:
        """Delete the runs of all other trials, whose records are gone; return how many."""
        with self._failures():
            client, _, _ = self._connect()
            self._children = None
            known = self._known_children()
            orphaned = known.keys() - set(trial_ids)
            for trial_id in orphaned:
                client.delete_run(known.pop(trial_id).run_id)
        return len(orphaned)

    def _sync_one(self, result: TrialResult, latency: Latency | None, fingerprint: str | None) -> int:
        from mlflow.entities import Metric, RunTag

        client, experiment, parent = self._connect()
        children = self._known_children()
        status, ended = _STATUS[result.status], milliseconds(result.ended)
        child = children.get(result.trial_id)
        record = {} if fingerprint is None else {RECORD: fingerprint}
        if child is not None and child.shows(status, ended):
            lacks = child.lacks(latency)
            if not lacks and fingerprint in (None, child.fingerprint):
                return 0
            metrics = [Metric(*point) for point in latency_metrics(latency, result)] if lacks else []
            client.log_batch(child.run_id, metrics, [], [RunTag(*tag) for tag in record.items()])
            written = int(lacks)
        else:
            name = run_name(result)
            tags = run_tags(result) | {NOTE: run_description(result, self.sweep, run_url(experiment, parent))} | record
            if child is None:
                labels = {**tags, "trial_id": result.trial_id, "mlflow.parentRunId": parent}
                started = milliseconds(result.started) or ended
                run = client.create_run(experiment, start_time=started, tags=labels, run_name=name)
                child = children[result.trial_id] = Child(run.info.run_id, name, tags=labels)
            elif child.name != name or child.final:
                # Not final until it shows all of the new record: a kill would leave a final run of two records.
                client.update_run(child.run_id, status="RUNNING", name=name)
                child.name, child.status = name, "RUNNING"
            self.left_out += [f"{result.trial_id}: {what}" for what in fill_run(client, child, result, latency, tags)]
            client.set_terminated(child.run_id, status, ended)
            child.status, child.end_time = status, ended
            written = 1
        child.latency |= latency_values(latency)
        child.fingerprint = fingerprint or child.fingerprint
        return written

    def _known_children(self) -> dict[str, Child]:
        if self._children is None:
            client, experiment, parent = self._connect()
            self._children = list_children(client, tracking_uri(self.out), experiment, parent)
        return self._children

    def _load_details(self, trial_ids: Iterable[str]) -> None:
        """Read the details of these trials' runs that were only listed."""
        client, experiment, _ = self._connect()
        known = self._known_children()
        listed = {i: known[i] for i in trial_ids if i in known and not known[i].complete}
        details = load_details(client, experiment, listed.values())
        for trial_id, child in listed.items():
            known[trial_id] = details[child.run_id]

    def _connect(self) -> tuple[MlflowClient, str, str]:
        if self._connection is None:
            with locked_client(self.out) as client:
                experiment = open_experiment(client, self.out, self.sweep)
                parent = open_parent_run(client, experiment, self.sweep, self._question, self._searchspace)
                self._connection = client, experiment, parent
        return self._connection

    def _disconnect(self) -> None:
        # After a failure it is unknown what arrived: connect again, and list the runs again.
        self._connection = self._children = None

    @contextmanager
    def _failures(self, waiting: frozenset[str] = frozenset()) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._disconnect()
            raise MlflowFailure(one_line(error), waiting) from error


__all__ = ["MlflowFailure", "MlflowView", "ParentStatus", "log_report", "make_database", "tracking_uri"]
