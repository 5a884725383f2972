"""A thread that keeps the views of a running sweep up to date, so that the driver never waits for them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from orchestrator.records.mlflow.view import MlflowFailure, MlflowView, ParentStatus
from orchestrator.records.parquet import load_table, write_views
from orchestrator.records.record_fingerprints import record_fingerprint
from orchestrator.records.records import DamagedRecord, Latency, read_latency, read_result, recorded_ids
from orchestrator.records.sweep_summary import summary_of
from orchestrator.spec.redacting import redacted
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.yaml_loader import parse_yaml
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths

_BATCH = 100
_PARQUET_SECONDS = 5.0
_FIRST_PARQUET_SECONDS = 20.0
"""Delay of the first view: a resumed sweep starts its workers before this thread reads ten thousand records."""
_RETRY_SECONDS = 30.0
_SHARE = 20
"""A view is rewritten after this many times what it took the last time: 5 % of a core, however large the sweep."""


class ViewWriter:
    """Writes MLflow and Parquet from the records of a sweep, those of earlier drivers included.

    A view that cannot be written stops nothing: it is tried again with the next trials and at the end, and
    :meth:`close` reports what is still missing. Opening and closing a writer rebuilds the views from the records.

    Args:
        store: the store that all sweeps share.
        sweep: name of the sweep, a folder in the store.
        question: first line of the descriptions in MLflow.
        searchspace: text of the search space, an artifact of the parent run; the front is that of its objectives.
    """

    def __init__(self, store: Store, sweep: str, *, question: str = "", searchspace: str = "") -> None:
        self._store, self._folder = store, store.folder / sweep
        self._again = f"prunesweep sync {sweep}"
        self._searchspace = searchspace
        self._mlflow = MlflowView(store.folder, sweep, question=question, searchspace=searchspace)
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._waiting: dict[str, None] = {}
        self._problems: dict[str, str] = {}
        self._final: ParentStatus = "FINISHED"
        self._closing = False
        self._mlflow_next = 0.0
        self._parquet_next = time.monotonic() + _FIRST_PARQUET_SECONDS
        self._parquet_stale = True
        self._unreachable = False
        self._thread = threading.Thread(target=self._run, name="views", daemon=True)
        self._thread.start()

    def __enter__(self) -> ViewWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        if kind is None:
            self.close()
        else:
            self.close("FAILED" if issubclass(kind, Exception) else "KILLED")

    def put(self, trial_id: str) -> None:
        """Announce that a record or a latency of a trial was written; return at once."""
        self._queue.put(trial_id)

    def close(self, status: ParentStatus = "FINISHED") -> list[str]:
        """Write what is missing, end the parent run, and return a warning for each view that is not complete."""
        if not self._closing:
            self._closing = True
            self._final = status
            self._queue.put(None)
        self._thread.join()
        warnings = [f"{problem}; when that is mended: {self._again}" for problem in self._problems.values()]
        left_out = self._mlflow.left_out
        if left_out:
            more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
            warnings.append(f"too large for MLflow, kept in the records: {left_out[0]}{more}")
        return warnings

    def _run(self) -> None:
        self._attempt("MLflow", self._begin)
        running = True
        while running:
            running = self._collect()
            now = time.monotonic()
            if self._waiting and (now >= self._mlflow_next or not running):
                self._attempt("MLflow", self._write_mlflow)
            if self._parquet_stale and (now >= self._parquet_next or not running):
                self._attempt("Parquet", self._write_parquet)
        missing = self._problems.get("MLflow")
        if self._unreachable:
            # One more attempt would only delay the end of the sweep.
            return
        if self._attempt("MLflow", self._finish) and missing and self._waiting:
            self._problems["MLflow"] = missing

    def _begin(self) -> None:
        self._waiting |= dict.fromkeys(sorted(recorded_ids(self._folder)))
        self._mlflow.start_parent()

    def _finish(self) -> None:
        try:
            raw = parse_yaml(self._searchspace, "searchspace.yaml") if self._searchspace else {"name": "unnamed"}
            table = load_table(self._folder)
            summary = summary_of(table.to_pylist(), SearchSpace.parse(raw).objectives)
        except (ValueError, OSError):
            # A record cannot be read, of which the Parquet view has warned: the parent run ends without a summary.
            summary = None
        self._mlflow.finish_parent(self._final, summary)

    def _collect(self) -> bool:
        """Wait until a view is due; collect the announced trials meanwhile; return False once closed."""
        due = [self._mlflow_next] * bool(self._waiting) + [self._parquet_next] * self._parquet_stale
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        try:
            while (trial_id := self._queue.get(timeout=timeout)) is not None:
                self._waiting[trial_id] = None
                self._parquet_stale = True
                timeout = 0.0
        except queue.Empty:
            return True
        return False

    def _attempt(self, view: str, write: Callable[[], None]) -> bool:
        """Run `write` and return whether it succeeded; a failure is kept until the next success, and never raised."""
        try:
            write()
        except Exception as error:
            self._problems[view] = f"{view} view is not complete: {redacted(str(error))}"
            return False
        self._problems.pop(view, None)
        return True

    def _write_mlflow(self) -> None:
        began = time.monotonic()
        problem: Exception | None = None
        self._unreachable = False
        # Taken before the records are read: one that is replaced meanwhile is compared again.
        fingerprints = {
            trial_id: record_fingerprint(SweepPaths(self._folder).trial(trial_id).folder) for trial_id in self._waiting
        }
        outdated: list[str] = []
        try:
            outdated = self._mlflow.outdated(fingerprints)
            self._waiting.clear()
        except MlflowFailure as error:
            problem, self._unreachable = error, error.unreachable
        for start in range(0, len(outdated), _BATCH):
            batch = outdated[start : start + _BATCH]
            results, latencies, unreadable = self._read(batch)
            self._waiting |= dict.fromkeys(unreadable)
            problem = next(iter(unreadable.values()), problem)
            try:
                self._mlflow.sync(results, latencies, fingerprints)
            except MlflowFailure as error:
                problem = error
                self._waiting |= dict.fromkeys(error.waiting)
                self._unreachable = error.unreachable
                if error.unreachable:
                    self._waiting |= dict.fromkeys(outdated[start + _BATCH :])
                    break
        if problem is not None:
            now = time.monotonic()
            self._mlflow_next = now + max(_RETRY_SECONDS, _SHARE * (now - began))
            raise problem
        self._mlflow_next = 0.0

    def _read(self, trial_ids: list[str]) -> tuple[list[TrialResult], dict[str, Latency], dict[str, Exception]]:
        results: list[TrialResult] = []
        latencies: dict[str, Latency] = {}
        unreadable: dict[str, Exception] = {}
        for trial_id in trial_ids:
            paths = SweepPaths(self._folder).trial(trial_id)
            try:
                result, latency = read_result(paths.result), read_latency(paths.folder)
            except FileNotFoundError:
                continue
            except (DamagedRecord, OSError) as error:
                unreadable[trial_id] = error
                continue
            results.append(result)
            if latency is not None:
                latencies[trial_id] = latency
        return results, latencies, unreadable

    def _write_parquet(self) -> None:
        began = time.monotonic()
        try:
            write_views(self._store, self._folder)
            self._parquet_stale = False
        finally:
            now = time.monotonic()
            self._parquet_next = now + max(_PARQUET_SECONDS, _SHARE * (now - began))
