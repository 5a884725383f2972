"""The progress of a sweep: a live table in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.spec.result import TrialResult
from orchestrator.sweep.driver.jobs import Job, short_point
from orchestrator.sweep.driver.messages import EpochReport

_LINE_SECONDS = 15.0


@dataclass
class Running:
    """A job at work, and how far it is."""

    job: Job
    since: float
    stage: str = "starting"
    epoch: int = 0
    epochs: int = 0
    val_accuracy: float | None = None


@dataclass
class State:
    """Counts and running jobs, as a view shows them."""

    sweep: str
    planned: int
    """Trials of the plan."""
    done_before: int
    """Trials recorded by earlier runs."""
    slots: int = 1
    running: dict[str, Running] = field(default_factory=dict)
    recent: list[TrialResult] = field(default_factory=list)
    ended: int = 0
    failed: int = 0
    stages: int = 0
    started: float = field(default_factory=time.monotonic)
    busy: float = 0.0
    """Sum of the seconds that ended trials took."""

    def start(self, job: Job) -> None:
        self.running[job.key] = Running(job, time.monotonic())

    def epoch(self, key: str, report: EpochReport) -> None:
        running = self.running.get(key)
        if running is not None:
            running.stage, running.epoch, running.epochs = report.stage, report.epoch + 1, report.epochs
            running.val_accuracy = report.val_accuracy

    def requeued(self, key: str) -> None:
        self.running.pop(key, None)

    def stage_ended(self, key: str) -> None:
        self.stages += self.running.pop(key, None) is not None

    def trial_ended(self, key: str, result: TrialResult) -> None:
        running = self.running.pop(key, None)
        if running is not None:
            self.busy += time.monotonic() - running.since
        self.ended += 1
        self.failed += result.failed
        self.recent = [*self.recent, result][-8:]

    @property
    def n_left(self) -> int:
        """Trials that have not ended."""
        return self.planned - self.done_before - self.ended

    def seconds_left(self) -> float | None:
        """Return the mean time of an ended trial, times the trials left, over the slots; None before the first ends."""
        if self.ended == 0:
            return None
        return self.n_left * (self.busy / self.ended) / max(1, self.slots)


class View(Protocol):
    def __enter__(self) -> View: ...

    def __exit__(self, *exception: object) -> None: ...

    def update(self, event: str | None = None) -> None:
        """Show the state as it is now; `event` is worth a line of its own."""


def view_of(state: State, console: Console, *, live: bool = True) -> View:
    """Return a live table where `live` and the console is a terminal, else plain lines."""
    return LiveTable(state, console) if live and console.is_terminal else LineLog(state, console)


class LineLog:
    """Prints a line for each event, and one now and then while nothing ends."""

    def __init__(self, state: State, console: Console) -> None:
        self._state, self._console, self._last = state, console, time.monotonic()

    def __enter__(self) -> LineLog:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def update(self, event: str | None = None) -> None:
        now = time.monotonic()
        if event is None and now - self._last < _LINE_SECONDS:
            return
        self._last = now
        state = self._state
        done = state.done_before + state.ended
        seconds = state.seconds_left()
        ahead = f", about {duration(seconds)} left" if seconds is not None and state.n_left else ""
        working = "; ".join(_activity(running) for running in state.running.values())
        line = event or f"working on {working}" if event or working else "waiting"
        self._console.print(f"[{done}/{state.planned}{ahead}] {line}", markup=False, highlight=False, soft_wrap=True)


class LiveTable:
    """A table of the last results and the running jobs, with a progress bar below."""

    def __init__(self, state: State, console: Console) -> None:
        self._state = state
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveTable:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.__exit__(None, None, None)

    def update(self, event: str | None = None) -> None:
        """Do nothing: the table redraws itself."""

    def _render(self) -> Group:
        state = self._state
        table = Table(title=f"sweep {state.sweep}", title_justify="left", expand=True)
        for name in ("arm", "trial", "state", "epoch", "accuracy", "sparsity"):
            table.add_column(name, justify="right" if name in ("epoch", "accuracy", "sparsity") else "left")
        for result in state.recent:
            style = {"done": "green", "stopped": "yellow"}.get(result.status, "red")
            point = short_point(result.point)
            reason = result.note if result.status == "stopped" else result.error
            status = Text(result.status if reason is None else f"{result.status}: {reason}", style)
            table.add_row(
                result.arm, point, status, "", _share(result.metrics.get("accuracy")), _share(result.achieved)
            )
        for running in list(state.running.values()):
            epoch = f"{running.epoch}/{running.epochs}" if running.epochs else ""
            job = running.job
            sparsity = _share(job.spec.target.sparsity) if job.kind == "trial" else ""
            stage = Text(running.stage, "yellow")
            table.add_row(job.owner, job.label, stage, epoch, _share(running.val_accuracy), sparsity)
        done = state.done_before + state.ended
        seconds = state.seconds_left()
        words = [f"{done} of {state.planned} trials"]
        if state.done_before:
            words.append(f"{state.done_before} from earlier runs")
        if state.failed:
            words.append(f"{state.failed} failed")
        words.append(f"{duration(time.monotonic() - state.started)} so far")
        if seconds is not None and state.n_left:
            words.append(f"about {duration(seconds)} left")
        return Group(table, ProgressBar(total=max(1, state.planned), completed=done), Text(" | ".join(words), "dim"))


def duration(seconds: float) -> str:
    """Return seconds as ``42 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def outcome_line(result: TrialResult) -> str:
    """Return one line about an ended trial."""
    point = ", ".join(f"{name} {value}" for name, value in result.point.items())
    head = f"{result.arm} ({point})" if point else result.arm
    if result.status != "done":
        return f"{head}: {result.status}: {result.error or result.note}"
    metrics = result.metrics
    return (
        f"{head}: accuracy {metrics['accuracy']:.4f} (dense {metrics['dense_accuracy']:.4f}), "
        f"{metrics['mac_sparsity']:.1%} fewer MACs, {metrics['param_sparsity']:.1%} fewer parameters"
    )


def _activity(running: Running) -> str:
    epoch = f" epoch {running.epoch}/{running.epochs}" if running.epochs else ""
    return f"{running.job.owner} ({running.job.label}): {running.stage}{epoch}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
