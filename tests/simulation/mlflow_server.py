"""An MLflow server in memory that loses requests and replies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from mlflow.entities import Experiment, Metric, Param, Run, RunData, RunInfo, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList
from world import Killed, World


class Server:
    """The state of the server, which outlives every driver."""

    def __init__(self) -> None:
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.numbers = itertools.count(1)

    def children(self, trial_id: str) -> list[dict[str, Any]]:
        """Return the active runs of a trial."""
        runs = self.runs.values()
        return [run for run in runs if run["active"] and run["tags"].get("trial_id") == trial_id]


class Client:
    """The part of `mlflow.MlflowClient` that the view uses."""

    def __init__(self, server: Server, world: World) -> None:
        self._server, self._world = server, world
        self.away = 0.0
        """Share of the calls that fail, half of them after they took effect."""

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        self._call()
        found = [e for e in self._server.experiments.values() if e["name"] == name]
        return self._experiment(found[0]) if found else None

    def get_experiment(self, experiment_id: str) -> Experiment:
        self._call()
        return self._experiment(self._server.experiments[experiment_id])

    def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        after = self._call()
        number = str(next(self._server.numbers))
        self._server.experiments[number] = {"id": number, "name": name, "tags": {}}
        after()
        return number

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        after = self._call()
        self._server.experiments[experiment_id]["tags"][key] = value
        after()

    def create_run(
        self, experiment_id: str, start_time: int | None = None, tags: dict[str, str] | None = None, run_name: str = ""
    ) -> Run:
        after = self._call()
        run_id = f"run{next(self._server.numbers):04d}"
        self._server.runs[run_id] = {
            "id": run_id, "experiment": experiment_id, "name": run_name, "status": "RUNNING", "start": start_time or 0,
            "end": None, "tags": dict(tags or {}), "params": {}, "metrics": {}, "active": True,
        }  # fmt: skip
        after()
        return self._run(self._server.runs[run_id])

    def get_run(self, run_id: str) -> Run:
        self._call()
        return self._run(self._server.runs[run_id])

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
        after = self._call()
        run = self._server.runs[run_id]
        run["status"], run["name"] = status or run["status"], name or run["name"]
        after()

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
        after = self._call()
        self._server.runs[run_id] |= {"status": status or "FINISHED", "end": end_time or 0}
        after()

    def delete_run(self, run_id: str) -> None:
        after = self._call()
        self._server.runs[run_id]["active"] = False
        after()

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        after = self._call()
        self._server.runs[run_id]["tags"][key] = value
        after()

    def delete_tag(self, run_id: str, key: str) -> None:
        after = self._call()
        del self._server.runs[run_id]["tags"][key]
        after()

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        after = self._call()
        run = self._server.runs[run_id]
        for param in params:
            if run["params"].setdefault(param.key, param.value) != param.value:
                raise MlflowException(f"{param.key} cannot be changed")
        run["metrics"] |= {metric.key: metric.value for metric in metrics}
        run["tags"] |= {tag.key: tag.value for tag in tags}
        after()

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        self._call()()

    def search_runs(
        self, experiment_ids: list[str], filter_string: str = "", max_results: int = 0, page_token: str | None = None
    ) -> PagedList[Run]:
        self._call()
        runs = [r for r in self._server.runs.values() if r["experiment"] in experiment_ids and r["active"]]
        if filter_string.startswith("attributes.run_id IN"):
            runs = [run for run in runs if f"'{run['id']}'" in filter_string]
        else:
            key, _, value = filter_string.removeprefix("tags.").partition(" = ")
            runs = [run for run in runs if run["tags"].get(key.strip("`")) == value.strip("'")]
        return PagedList([self._run(run) for run in runs], None)

    def _call(self) -> Any:
        """Inject a kill or a failure: here, before the call takes effect, or in the returned function, after it."""
        killed = self._world.system_call()
        before = self._world.chance(0.5)
        lost = self._world.chance(self.away)
        if before:
            self._end(killed, lost)
        return (lambda: None) if before else (lambda: self._end(killed, lost))

    def _end(self, killed: bool, lost: bool) -> None:
        if killed:
            raise Killed("in a call of MLflow")
        if lost:
            raise MlflowException("the server is away")

    def _experiment(self, facts: dict[str, Any]) -> Experiment:
        tags = []
        experiment = Experiment(facts["id"], facts["name"], "", "active", tags)
        experiment._tags = dict(facts["tags"])
        return experiment

    def _run(self, facts: dict[str, Any]) -> Run:
        info = RunInfo(
            run_id=facts["id"], experiment_id=facts["experiment"], user_id="", status=facts["status"],
            start_time=facts["start"], end_time=facts["end"], lifecycle_stage="active", run_name=facts["name"],
        )  # fmt: skip
        data = RunData(
            metrics=[Metric(key, value, 0, 0) for key, value in facts["metrics"].items()],
            params=[Param(key, value) for key, value in facts["params"].items()],
            tags=[RunTag(key, value) for key, value in facts["tags"].items()],
        )
        return Run(info, data)
