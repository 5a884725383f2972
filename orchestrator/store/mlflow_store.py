"""The MLflow view of a sweep: one experiment, one parent run, one child run a trial; rebuildable.

A run is created with its tags in one transaction, filled with values and times taken from the record alone, and given
its final status last. So a run that is not final was left by a killed driver, and filling it again changes nothing.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.spec.redacting import redacted, redacted_values
from orchestrator.spec.result import LATENCY_METRICS, TrialResult
from orchestrator.store.atomic import replacing
from orchestrator.store.records import Latency
from orchestrator.store.run_values import (
    latency_metrics,
    latency_values,
    layers_csv,
    milliseconds,
    run_metrics,
    run_parameters,
    run_tags,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ParentStatus = Literal["FINISHED", "FAILED", "KILLED"]

_STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "diverged": "FAILED"}
# Limits of one log_batch call: 1000 metrics, 100 parameters, 1000 in all (mlflow.utils.validation).
_MOST_METRICS = 850
_MOST_PARAMS = 100
_PAGE = 1000
_LARGEST_ARTIFACT = 10 * 2**20
"""Bytes of one artifact of a trial. Ten thousand trials at a megabyte each fill a server; what is larger stays in the
record alone."""
_FAILURES_IN_A_ROW = 3
"""After so many the server is taken to be down, and the rest of the batch waits for the next one."""


class MlflowFailure(ValueError):
    """MLflow did not take everything.

    Args:
        reason: the first thing that went wrong, in a line.
        waiting: the trials to send again.
        unreachable: nothing seems to get through; better wait before sending more.
    """

    def __init__(self, reason: str, waiting: frozenset[str] = frozenset(), *, unreachable: bool = True) -> None:
        super().__init__(f"{reason} (trials waiting: {len(waiting)})" if waiting else reason)
        self.waiting = waiting
        self.unreachable = unreachable


def tracking_uri(out: Path) -> str:
    """``MLFLOW_TRACKING_URI`` where set, else the database in the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(out / 'mlflow.db').resolve()}"


def make_database(path: Path) -> None:
    """An MLflow database, put in place whole: a migration killed half-way could not be taken up again."""
    if path.exists():
        return
    _quiet()
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    with replacing(path) as temporary:
        engine = create_sqlalchemy_engine(f"sqlite:///{temporary.resolve()}")
        try:
            _initialize_tables(engine)
        finally:
            engine.dispose()


def log_report(store: Path, sweep: str, path: Path) -> bool:
    """Make a report's page an artifact of the sweep's parent run; False where the store has no MLflow.

    Raises:
        MlflowFailure: MLflow did not take it.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (store / "mlflow.db").exists():
        return False
    MlflowView(store, sweep).attach(path)
    return True


def _quiet() -> None:
    """Keep MLflow off the terminal and off the network; what fails is raised, and said once, by us."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # MLflow's own defaults (7 retries, 120 s each) would hold up the end of a sweep for half an hour.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import mlflow  # noqa: F401  importing it sets the levels that are overridden here

    for name in ("mlflow", "alembic", "sqlalchemy.engine", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    with open(path, "a") as file:
        # A bucket mounted as a folder may know no locks; then a server, not the database in it, takes the runs.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _listing(client: MlflowClient, experiment: str, condition: str) -> list[Run]:
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], filter_string=condition, max_results=_PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _children(client: MlflowClient, experiment: str, parent: str) -> dict[str, _Child]:
    """The child run of each trial. Where a lost reply made a second one, the older stays."""
    found: dict[str, _Child] = {}
    runs = _listing(client, experiment, f"tags.`mlflow.parentRunId` = '{parent}'")
    for run in sorted(runs, key=lambda run: (run.info.status == "RUNNING", run.info.start_time, run.info.run_id)):
        trial_id = run.data.tags.get("trial_id")
        if trial_id is None:
            continue
        if trial_id in found:
            client.delete_run(run.info.run_id)
            continue
        found[trial_id] = _Child(
            run_id=run.info.run_id,
            status=run.info.status,
            end_time=run.info.end_time,
            params=frozenset(run.data.params),
            tags=frozenset(run.data.tags),
            latency={name: run.data.metrics[name] for name in LATENCY_METRICS if name in run.data.metrics},
        )
    return found


def _chunks(values: list[Any], size: int) -> list[list[Any]]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def _reason(error: Exception) -> str:
    """One line of what may be a page of SQL."""
    text = redacted(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _fill(client: MlflowClient, child: _Child, result: TrialResult, latency: Latency | None) -> list[str]:
    """Everything but the final status; returns the artifacts that are too large."""
    from mlflow.entities import Metric, Param, RunTag

    tags = run_tags(result)
    for name in (child.tags & {"error", "note", "left_out"}) - tags.keys():
        client.delete_tag(child.run_id, name)
    metrics = [Metric(*point) for point in run_metrics(result) + latency_metrics(latency, result)]
    # MLflow refuses to change a parameter; what a run has already it keeps.
    params = [Param(name, text) for name, text in run_parameters(result).items() if name not in child.params]
    labels = [RunTag(name, text) for name, text in tags.items()]
    batches = zip_longest(_chunks(metrics, _MOST_METRICS), _chunks(params, _MOST_PARAMS), [labels], fillvalue=())
    for some_metrics, some_params, some_tags in batches:
        client.log_batch(child.run_id, some_metrics, some_params, some_tags)
    left_out: list[str] = []
    for name, text in _artifacts(result):
        size = len(text.encode())
        if size > _LARGEST_ARTIFACT:
            left_out.append(f"{name} ({size / 2**20:.1f} MiB)")
        else:
            client.log_text(child.run_id, text, name)
    if left_out:
        client.set_tag(child.run_id, "left_out", ", ".join(left_out))
    return left_out


def _artifacts(result: TrialResult) -> Iterator[tuple[str, str]]:
    if result.layers:
        yield "layers.csv", layers_csv(result.layers)
    if result.analysis:
        yield "analysis.json", json.dumps(redacted_values(result.analysis), indent=1)


@dataclass
class _Child:
    """What MLflow already has of a trial."""

    run_id: str
    status: str = "RUNNING"
    end_time: int | None = None
    params: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    latency: dict[str, float] = field(default_factory=dict)

    def shows(self, status: str, ended: int | None) -> bool:
        return self.status == status and (ended is None or self.end_time == ended)

    def lacks(self, latency: Latency | None) -> bool:
        # Not equality: a database other than SQLite may round.
        return any(
            name not in self.latency or not math.isclose(self.latency[name], value)
            for name, value in latency_values(latency).items()
        )


class MlflowView:
    """The runs of one sweep. It connects when first used; one thread of one process uses it at a time.

    Args:
        out: the store that all sweeps share; it holds ``mlflow.db`` and ``mlartifacts/`` unless
            ``MLFLOW_TRACKING_URI`` names another place.
        sweep: name of the experiment and of the parent run.
        question: what the sweep is to answer: the parent run's description.
        searchspace: the search space as run, an artifact of the parent run.
    """

    def __init__(self, out: Path, sweep: str, *, question: str = "", searchspace: str = "") -> None:
        self.out = out
        self.sweep = sweep
        self._question = question
        self._searchspace = searchspace
        self._connection: tuple[MlflowClient, str, str] | None = None
        self._children: dict[str, _Child] | None = None
        self.left_out: list[str] = []
        """Artifacts of trials that were larger than MLflow is given, each with its trial."""

    def start_parent(self) -> None:
        """Make the parent run, or take it up again."""
        with self._failures():
            client, _, parent = self._connect()
            if client.get_run(parent).info.status != "RUNNING":
                client.update_run(parent, status="RUNNING")

    def finish_parent(self, status: ParentStatus = "FINISHED") -> None:
        """End the parent run; the next driver of the same sweep takes it up again."""
        with self._failures():
            client, _, parent = self._connect()
            client.set_terminated(parent, status)

    def attach(self, path: Path) -> None:
        """Make a file (the report) an artifact of the parent run."""
        with self._failures():
            client, _, parent = self._connect()
            client.log_artifact(parent, str(path))

    def sync(self, results: Sequence[TrialResult], latencies: Mapping[str, Latency] | None = None) -> int:
        """Give every record exactly one finished run, and add latencies to it; returns how many runs were written.

        Raises:
            MlflowFailure: some runs could not be written; all others were.
        """
        with self._failures(waiting=frozenset(result.trial_id for result in results)):
            client, experiment, parent = self._connect()
            if self._children is None:
                self._children = _children(client, experiment, parent)
        written = 0
        failed: dict[str, str] = {}
        in_a_row = 0
        for result in results:
            if in_a_row == _FAILURES_IN_A_ROW:
                failed[result.trial_id] = "not tried"
                continue
            try:
                written += self._sync_one(result, (latencies or {}).get(result.trial_id))
                in_a_row = 0
            except Exception as error:
                failed[result.trial_id] = _reason(error)
                in_a_row += 1
        if failed:
            self._disconnect()
            gone = in_a_row == _FAILURES_IN_A_ROW
            raise MlflowFailure(next(iter(failed.values())), frozenset(failed), unreachable=gone)
        return written

    def discard_all_but(self, trial_ids: Collection[str]) -> int:
        """Delete the runs of all other trials (their records were removed); returns how many."""
        with self._failures():
            client, experiment, parent = self._connect()
            self._children = _children(client, experiment, parent)
            lost = self._children.keys() - set(trial_ids)
            for trial_id in lost:
                client.delete_run(self._children.pop(trial_id).run_id)
        return len(lost)

    def _sync_one(self, result: TrialResult, latency: Latency | None) -> int:
        from mlflow.entities import Metric

        client, experiment, parent = self._connect()
        children = self._children
        assert children is not None
        status, ended = _STATUS[result.status], milliseconds(result.ended)
        child = children.get(result.trial_id)
        if child is not None and child.shows(status, ended):
            if not child.lacks(latency):
                return 0
            client.log_batch(child.run_id, [Metric(*point) for point in latency_metrics(latency, result)])
        else:
            if child is None:
                name = f"{result.arm or result.spec.method.name}-{result.trial_id[:6]}"
                tags = {"trial_id": result.trial_id, "mlflow.parentRunId": parent}
                started = milliseconds(result.started) or ended
                run = client.create_run(experiment, start_time=started, tags=tags, run_name=name)
                child = children[result.trial_id] = _Child(run.info.run_id)
            self.left_out += [f"{result.trial_id}: {what}" for what in _fill(client, child, result, latency)]
            client.set_terminated(child.run_id, status, ended)
            child.status, child.end_time = status, ended
        child.latency |= latency_values(latency)
        return 1

    def _connect(self) -> tuple[MlflowClient, str, str]:
        if self._connection is None:
            _quiet()
            from mlflow import MlflowClient

            self.out.mkdir(parents=True, exist_ok=True)
            with _alone(self.out / ".mlflow.lock"):
                if not os.environ.get("MLFLOW_TRACKING_URI"):
                    make_database(self.out / "mlflow.db")
                client = MlflowClient(tracking_uri=tracking_uri(self.out))
                experiment = self._experiment(client)
                self._connection = client, experiment, self._parent(client, experiment)
        return self._connection

    def _disconnect(self) -> None:
        # After a failure it is unknown what got through: connect anew, and look again at what is there.
        self._connection = self._children = None

    def _experiment(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(self.sweep)
        if found is None:
            embedded = not os.environ.get("MLFLOW_TRACKING_URI")
            artifacts = (self.out / "mlartifacts" / self.sweep).resolve().as_uri() if embedded else None
            return str(client.create_experiment(self.sweep, artifact_location=artifacts))
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _parent(self, client: MlflowClient, experiment: str) -> str:
        parents = _listing(client, experiment, "tags.`prunesweep.role` = 'parent'")
        if parents:
            parent = min(parents, key=lambda run: (run.info.start_time, run.info.run_id))
        else:
            parent = client.create_run(experiment, tags={"prunesweep.role": "parent"}, run_name=self.sweep)
        run_id = str(parent.info.run_id)
        if self._question and parent.data.tags.get("mlflow.note.content") != self._question:
            client.set_tag(run_id, "mlflow.note.content", self._question)
        if self._searchspace:
            client.log_text(run_id, redacted(self._searchspace), "searchspace.yaml")
        return run_id

    @contextmanager
    def _failures(self, waiting: frozenset[str] = frozenset()) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._disconnect()
            raise MlflowFailure(_reason(error), waiting) from error
