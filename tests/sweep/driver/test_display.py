"""What a person sees while a sweep runs."""

import io

from rich.console import Console

from orchestrator.spec.result import TrialResult
from orchestrator.sweep.driver.display import LineLog, LiveTable, State, duration, outcome_line, view_of
from orchestrator.sweep.driver.jobs import Job
from orchestrator.sweep.driver.messages import EpochReport
from orchestrator.sweep.space.resolve import resolve

SPEC = resolve({"model": "lenet5", "data": "digits", "method": "l1_norm", "target": {"sparsity": 0.5}})
POINT = {"target.sparsity": 0.5, "seed": 0}
JOB = Job(SPEC.trial_id, "trial", "l1_norm", SPEC, POINT)
DONE = TrialResult(
    trial_id=SPEC.trial_id, spec=SPEC, arm="l1_norm", point=POINT, status="done", achieved=0.5,
    metrics={"accuracy": 0.9, "dense_accuracy": 0.95, "mac_sparsity": 0.5, "param_sparsity": 0.4},
)  # fmt: skip
LOST = DONE.model_copy(update={"status": "failed", "error": "OutOfMemory: 3 GiB", "metrics": {}, "achieved": None})


def state() -> State:
    progress = State("mine", planned=10, done_before=3, slots=2)
    progress.start(JOB)
    progress.epoch(JOB.key, EpochReport("retrain", 1, 8, 0.8125))
    return progress


def test_a_line_an_event_where_nobody_watches() -> None:
    text = io.StringIO()
    this = state()
    view = view_of(this, Console(file=text, width=200))
    assert isinstance(view, LineLog)
    this.trial_ended(JOB.key, DONE)
    view.update(outcome_line(DONE))
    assert "[4/10" in text.getvalue()
    assert "l1_norm (target.sparsity 0.5, seed 0): accuracy 0.9000 (dense 0.9500), 50.0% fewer MACs" in text.getvalue()
    view.update()
    assert len(text.getvalue().splitlines()) == 1  # nothing new: no line


def test_a_table_where_someone_does() -> None:
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True, color_system=None)
    this = state()
    view = view_of(this, console)
    assert isinstance(view, LiveTable)
    console.print(view._render())
    assert "retrain" in text.getvalue()
    assert "2/8" in text.getvalue()
    assert "0.8125" in text.getvalue()
    assert "3 of 10 trials" in text.getvalue()
    this.trial_ended(JOB.key, LOST)
    console.print(view._render())
    assert "failed: OutOfMemory: 3 GiB" in text.getvalue()
    assert "1 failed" in text.getvalue()


def test_time_left_is_shared_by_the_slots() -> None:
    this = state()
    assert this.seconds_left() is None
    this.trial_ended(JOB.key, DONE)
    this.busy = 10.0
    assert this.n_left == 6
    assert this.seconds_left() == 6 * 10.0 / 2


def test_durations_read_well() -> None:
    assert [duration(s) for s in (4.4, 200, 7500)] == ["4 s", "3 min 20 s", "2 h 05 min"]
