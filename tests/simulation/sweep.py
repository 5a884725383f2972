"""One simulated sweep: drivers, workers and views under injected faults, and the guarantees that hold at its end."""

from __future__ import annotations

import fcntl
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from disk import Disk
from mlflow_server import Client, Server
from object_store import ObjectStore
from world import Process, Thread, World

from orchestrator.records.mlflow import view as mlflow_view
from orchestrator.records.mlflow.client import MlflowFailure
from orchestrator.records.record_fingerprints import record_fingerprint
from orchestrator.records.records import DamagedRecord, read_result, recorded_ids
from orchestrator.spec.failures import Failure, JobOutcome, classify, store_unavailable
from orchestrator.spec.result import EpochRow, TrialResult
from orchestrator.spec.search_space import Resources, SearchSpace
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage import atomic, lease
from orchestrator.storage.bucket import Bucket
from orchestrator.storage.driver_lock import SweepLocked, hold_driver_lock
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.driver.allocation import Allocation, shared
from orchestrator.sweep.driver.dispatcher import Dispatcher
from orchestrator.sweep.driver.jobs import Job, remaining_jobs
from orchestrator.sweep.driver.messages import (
    EpochReport,
    JobEnded,
    JobRequest,
    Message,
    WorkerContext,
    WorkerDied,
    decode_message,
    decode_request,
    encode_message,
    encode_request,
)
from orchestrator.sweep.driver.record_store import SweepRecordStore
from orchestrator.sweep.planning import Plan, plan, stages_of
from orchestrator.sweep.stopping.policy import StoppingPolicy
from orchestrator.sweep.worker import work as worker
from orchestrator.trial import run as trial_run
from orchestrator.trial.run import Stopped
from orchestrator.trial.stage_cache import StageOutput, once

NAME = "simulated"
_EPOCHS = 4
_BASE = {
    "model": "lenet_300_100",
    "data": "digits",
    "target": {"quantity": "params", "sparsity": 0.5},
    "baseline": {"epochs": 2},
    "retrain": {"epochs": _EPOCHS},
}
SPACES: tuple[dict[str, Any], ...] = (
    {
        "name": NAME, "base": _BASE, "axes": {"seed": [0, 1], "target.sparsity": [0.5, 0.7]},
        "arms": [{"method": "random"}, {"method": "taylor"}, {"method": "network_slimming"}],
    },
    {
        "name": NAME, "base": _BASE | {"method": "l1_norm"},
        "axes": {"target.sparsity": [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]}, "stopper": "asha",
    },
    {
        "name": NAME, "base": _BASE,
        "axes": {"seed": [0, 1], "target.sparsity": [0.5, 0.6]},
        "arms": [{"method": "l1_norm"}, {"method": "taylor", "target": {"steps": [0.2, 0.4]}}],
        "objectives": {"accuracy": "max", "macs": "min"},
    },
)  # fmt: skip
"""Shared stages of every kind, a stopper, steps."""


class Violation(AssertionError):
    """A guarantee does not hold."""


class NoMemory(RuntimeError):
    """A GPU has run out of memory."""


@cache
def plan_of(index: int) -> Plan:
    return plan(SearchSpace.parse(SPACES[index]))


@dataclass(eq=False)
class _Delivery:
    """A message on its way to the driver."""

    request: JobRequest
    message: Message | WorkerDied
    sender: Thread | None = None
    """The thread that waits for the answer."""
    answered: bool = False


@dataclass(eq=False)
class _Inbox:
    """Messages that a driver has received and not read."""

    world: World
    reader: Thread
    deliveries: deque[_Delivery] = field(default_factory=deque)

    def put(self, delivery: _Delivery) -> None:
        self.deliveries.append(delivery)
        self.world.wake(self.reader)


class Sweep:
    """A sweep that is run, interrupted and resumed until it is complete.

    Args:
        seed: determines the plan, the kind of store, and all faults and their times.
        root: an empty folder.
    """

    def __init__(self, seed: int, root: Path) -> None:
        self.world = World(seed)
        chance, choose = self.world.chance, self.world.random
        self.plan = plan_of(choose.randrange(len(SPACES)))
        self.root = root
        self.disk = Disk(self.world, root)
        self.objects = ObjectStore(self.world) if chance(0.4) else None
        self.server = Server()
        self.client = Client(self.server, self.world)
        self.records: dict[str, bytes] = {}
        """The content of each record when it was first seen."""
        self.executed: Counter[str] = Counter()
        self.computed: Counter[str] = Counter()
        self.faults = Counter[str]()
        self.complete = False
        self.drivers: list[Process] = []
        self.workers: dict[Process, Process] = {}
        """Worker -> its driver."""
        self._busy = 0
        self.per_gpu = choose.choice((1, 1, 2, 4))
        self.memory = choose.choice((4, 2, 1))
        """Half the number of trials that fit into the memory of a GPU."""
        kinds = ("done",) * 12 + ("failed", "diverged")
        self.fates = {trial.trial_id: choose.choice(kinds) for trial in self.plan.trials}

    # The run.

    def run(self) -> None:
        """Run the sweep to its end and check the guarantees."""
        world = self.world
        with self._installed():
            try:
                world.later(0, self._start_driver)
                self._schedule_faults()
                world.run(lambda: self.complete)
                self._end_faults()
                self._settle()
                self.check()
            finally:
                world.end()

    def _schedule_faults(self) -> None:
        world, choose = self.world, self.world.random
        if world.chance(0.5):
            world.later(choose.uniform(1, 60), self._start_second_driver)
        for _ in range(choose.randrange(3)):
            world.later(choose.uniform(5, 200), self._crash_node)
        if world.chance(0.3):
            self._window("full disk", lambda on: setattr(self.disk, "full", on))
        if self.objects is not None and world.chance(0.6):
            share = choose.choice((0.02, 0.1, 1.0))
            self._window("bucket away", lambda on: setattr(self.objects, "away", share if on else 0.0))
        if world.chance(0.4):
            share = choose.choice((0.05, 1.0))
            self._window("MLflow away", lambda on: setattr(self.client, "away", share if on else 0.0))

    def _window(self, what: str, switch: Callable[[bool], None]) -> None:
        start, length = self.world.random.uniform(0, 120), self.world.random.uniform(0.5, 150)

        def begin() -> None:
            self._fault(what)
            switch(True)

        def end() -> None:
            self.world.note(f"{what}: over")
            switch(False)

        self.world.later(start, begin)
        self.world.later(start + length, end)

    def _end_faults(self) -> None:
        self.disk.full = False
        self.client.away = 0.0
        if self.objects is not None:
            self.objects.away = 0.0

    def _settle(self) -> None:
        """Wait until workers of earlier drivers have ended, then rebuild the views as `prunesweep sync` does."""
        world = self.world
        deadline = world.now + 1000
        world.later(1000, lambda: None)
        world.run(lambda: world.now >= deadline)
        done = []
        process = Process("sync")
        world.start(process, lambda: (self._sync_views(), done.append(True)))
        world.run(lambda: bool(done))

    def _fault(self, what: str) -> None:
        self.faults[what] += 1
        self.world.note(what)

    def _crash_node(self) -> None:
        node = self.world.random.choice(("node-0", "node-1"))
        self._fault("crash of a node")
        self.world.note(node)
        for process in [*self.drivers, *self.workers]:
            if process.node == node and process.alive:
                self.world.kill(process)
        self.disk.crash(node)

    # Drivers.

    def _start_driver(self, name: str = "driver") -> None:
        if self.complete:
            return
        choose = self.world.random
        process = Process(f"{name} {len(self.drivers)}", choose.choice(("node-0", "node-1")))
        if len(self.drivers) < 6 and self.world.chance(0.5):
            process.fuse = choose.randrange(1, 250)
            self.faults["kill of a driver"] += 1
        self.drivers.append(process)
        self.world.note(f"{process.name} starts on {process.node}")
        self.world.start(process, lambda: self._drive(process))
        self._watch(process)

    def _start_second_driver(self) -> None:
        self._fault("second driver")
        self._start_driver("second driver")

    def _watch(self, process: Process) -> None:
        """Start a driver again, as a person would, when it has ended before the sweep is complete."""

        def look() -> None:
            if all(thread.ended for thread in process.threads):
                if not self.complete and process.name.startswith("driver"):
                    self._start_driver()
                return
            self.world.later(5, look)

        self.world.later(self.world.random.uniform(5, 60), look)

    def _drive(self, process: Process) -> None:
        try:
            store = self.store_of(process.node)
            folder = store.folder / NAME
            folder.mkdir(parents=True, exist_ok=True)
            with hold_driver_lock(store, folder) as is_lost:
                store.refresh(folder)
                self._dispatch(process, store, folder, is_lost)
        except SweepLocked:
            self.world.note(f"{process.name} finds the sweep locked")
        except OSError as problem:
            if not store_unavailable(problem):
                raise
            self.world.note(f"{process.name} ends: {problem}")

    def _dispatch(self, process: Process, store: Store, folder: Path, is_lost: Callable[[], bool]) -> None:
        records = SweepRecordStore.open(Workspace(store, NAME))
        policy = StoppingPolicy(self.plan.space) if self.plan.space.stopper is not None else None
        recorded = recorded_ids(folder)
        if policy is not None:
            policy.replay([read_result(folder / "trials" / trial_id / "result.json") for trial_id in sorted(recorded)])
        dispatcher = Dispatcher(
            remaining_jobs(self.plan, recorded, records.has_stage),
            WorkerContext(store.address, NAME),
            self._allocation(),
            records,
            _Events(self),
            policy=policy,
        )
        inbox = _Inbox(self.world, self.world.thread)
        n_slots = 2 * self.per_gpu
        next_views = 0.0
        while not (dispatcher.exhausted and dispatcher.n_running == 0) and dispatcher.store_problem is None:
            if is_lost():
                self.world.note(f"{process.name} has lost the sweep")
                return
            while dispatcher.n_running < n_slots and (request := dispatcher.next_job()) is not None:
                dispatcher.on_started(request)
                self._start_worker(process, request, inbox)
            while inbox.deliveries:
                self._deliver(dispatcher, inbox.deliveries.popleft())
            if dispatcher.backing_off and dispatcher.n_running == 0:
                n_slots = 2 * dispatcher.resume_with_fewer().per_gpu
            if self.world.now >= next_views:
                next_views = self.world.now + 20
                self._sync_views()
            if not inbox.deliveries:
                self.world.wait(5)
        if dispatcher.store_problem is None:
            dispatcher.close()
            self._sync_views()
            self.complete = True
        self.world.note(f"{process.name} ends: {dispatcher.store_problem or 'the sweep is complete'}")

    def _deliver(self, dispatcher: Dispatcher, delivery: _Delivery) -> None:
        request, message = delivery.request, delivery.message
        if isinstance(message, JobEnded | WorkerDied):
            dispatcher.on_ended(request, message)
        else:
            dispatcher.on_report(request, message)
        delivery.answered = True
        if delivery.sender is not None:
            self.world.wake(delivery.sender)

    def _allocation(self) -> Allocation:
        if self.per_gpu == 1:
            return Allocation(Resources(cpus=1, gpus=0))
        return shared(Resources(cpus=4, gpus=1), self.per_gpu, "simulated")

    def _sync_views(self) -> None:
        process = self.world.current
        assert process is not None
        store = self.store_of(process.node)
        folder = store.folder / NAME
        store.refresh(folder)
        view = mlflow_view.MlflowView(store.folder, NAME)
        ids = sorted(recorded_ids(folder))
        try:
            view.start_parent()
            marks = {trial_id: record_fingerprint(folder / "trials" / trial_id) for trial_id in ids}
            outdated = view.outdated(marks)
            view.sync([read_result(folder / "trials" / i / "result.json") for i in outdated], {}, marks)
        except MlflowFailure as failure:
            self.world.note(f"views: {failure}")

    # Workers.

    def _start_worker(self, driver: Process, request: JobRequest, inbox: _Inbox) -> None:
        choose = self.world.random
        process = Process(f"worker of {request.job.key[:12]}/{request.attempt}", choose.choice(("node-0", "node-1")))
        if self.world.chance(0.12):
            process.fuse = choose.randrange(1, 60)
            self.faults["kill of a worker"] += 1
        self.workers[process] = driver
        self.world.start(process, lambda: self._work(process, request, inbox))

        def look() -> None:
            if all(thread.ended for thread in process.threads):
                if not process.alive:
                    inbox.put(_Delivery(request, WorkerDied()))
            elif not driver.alive and self.world.chance(0.2):
                self.world.kill(process)  # Ray ends workers some time after their driver
            else:
                self.world.later(2, look)

        self.world.later(2, look)

    def _work(self, process: Process, request: JobRequest, inbox: _Inbox) -> None:
        world = self.world
        world.wait(world.random.uniform(0, 3))
        if world.chance(0.03):
            self._fault("hang")
            world.wait(400)

        def tell(message: Message) -> None:
            delivery = _Delivery(request, decode_message(encode_message(message)), world.thread)
            world.later(world.random.choice((0, 0, 0, 1, 8)), lambda: inbox.put(delivery))
            if world.chance(0.1):
                again = _Delivery(request, delivery.message)
                self.faults["doubled message"] += 1
                world.later(world.random.uniform(0, 60), lambda: inbox.put(again))
            while not delivery.answered:
                world.wait(1000)

        worker.work(decode_request(encode_request(request)), tell, "cpu")

    def execute_trial(
        self, spec: TrialSpec, workspace: Workspace, report: Callable[[EpochRow, int], None], *,
        cut: Callable[[dict[str, float]], None] | None = None, arm: str = "", point: Mapping[str, Any] | None = None,
        metrics: Sequence[str] = (),
    ) -> tuple[TrialResult, Failure | None]:  # fmt: skip
        """Do what `trial.run.execute_trial` does, without any arithmetic."""
        trial_id = spec.trial_id
        self.check_unrecorded(trial_id)
        self.executed[trial_id] += 1
        self._busy += 1
        fields: dict[str, Any] = {"trial_id": trial_id, "spec": spec, "arm": arm, "point": dict(point or {})}
        sizes = {"macs": 1e3 * (1 - (spec.target.sparsity or 0)), "val_accuracy": 0.5}
        rows: list[EpochRow] = []
        try:
            for stage in stages_of(spec):
                self.stage(stage.name, stage.key, workspace)
            if cut is not None:
                cut(dict(sizes))
            for epoch in range(_EPOCHS):
                self.world.wait(self.world.random.uniform(0.5, 3))
                if self.per_gpu > 1 and self._busy > 2 * self.memory:
                    self._fault("out of memory")
                    raise NoMemory("CUDA error: out of memory")
                rows.append(_epoch("retrain", epoch, self.world.random.random()))
                report(rows[-1], _EPOCHS)
            fate = self.fates[trial_id]
            if fate != "done":
                outcome = JobOutcome.DIVERGED if fate == "diverged" else JobOutcome.FAILED
                return TrialResult(**fields, status=fate, error=fate), Failure(outcome, fate)
            for path in (workspace.paths.trial(trial_id).network, workspace.paths.trial(trial_id).cut):
                with atomic.replacing(path) as temporary:
                    temporary.write_bytes(trial_id.encode())
            return TrialResult(**fields, status="done", metrics=sizes, epochs=rows), None
        except Stopped as stop:
            return TrialResult(**fields, status="stopped", stopped_at=stop.share, metrics=sizes, epochs=rows), None
        except Exception as problem:
            if store_unavailable(problem):
                raise
            failure = classify(problem)
            return TrialResult(**fields, status="failed", error=failure.reason), failure
        finally:
            self._busy -= 1

    def run_stage(self, name: str, spec: TrialSpec, workspace: Workspace, report: Any = None) -> bool:
        """Do what `trial.run.run_stage` does."""
        key = spec.step_key if name == "step" else {stage.name: stage.key for stage in stages_of(spec)}[name]
        return self.stage(name, key, workspace)

    def stage(self, name: str, key: str, workspace: Workspace) -> bool:
        def compute(checkpoint: object) -> StageOutput:
            self.world.wait(self.world.random.uniform(0.5, 4))
            self.computed[key] += 1
            return StageOutput({"weight": _weight(key)}, [_epoch(name, 0, 0.5)], 1.0, {"key": key})

        output, was_there = once(workspace, name, key, compute)
        if output.facts != {"key": key} or not torch.equal(output.tensors["weight"], _weight(key)):
            raise Violation(f"the stage {name}/{key} was read half-written, or as another")
        return was_there

    def check_unrecorded(self, trial_id: str) -> None:
        if self._standing(trial_id) is not None:
            raise Violation(f"{trial_id} is executed though it has a record")

    # The guarantees.

    def check(self) -> None:
        """Raise `Violation` where a guarantee does not hold."""
        for trial in self.plan.trials:
            data, fate = self._standing(trial.trial_id), self.fates[trial.trial_id]
            if data is None:
                raise Violation(f"{trial.trial_id} has no record")
            path = self.root / "check" / "result.json"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            try:
                result = read_result(path)
            except DamagedRecord as problem:
                raise Violation(f"{trial.trial_id} has a damaged record: {problem}") from None
            if data != self.records[trial.trial_id]:
                raise Violation(f"the record of {trial.trial_id} has changed")
            if result.status == "done" and self.objects is not None and not self._has_network(trial.trial_id):
                raise Violation(f"{trial.trial_id} is done and its network is not in the bucket")
            excused = any(reason in (result.error or "") for reason in ("the worker died", "out of memory"))
            if not excused and result.status not in (fate, "stopped"):
                raise Violation(f"{trial.trial_id} should be {fate}, is {result.status}: {result.error}")
            runs = self.server.children(trial.trial_id)
            if len(runs) != 1:
                raise Violation(f"{trial.trial_id} has {len(runs)} child runs")
            if runs[0]["status"] != mlflow_view._STATUS[result.status]:
                raise Violation(f"MLflow calls {trial.trial_id} {runs[0]['status']}, its record {result.status}")
        strangers = set(self._recorded()) - {trial.trial_id for trial in self.plan.trials}
        if strangers:
            raise Violation(f"records of trials that nobody planned: {strangers}")

    def saw_record(self, trial_id: str, data: bytes) -> None:
        """Keep the content of a record that is seen for the first time."""
        self.records.setdefault(trial_id, data)

    def _standing(self, trial_id: str) -> bytes | None:
        """Return the record in the store, read past all caches."""
        if self.objects is not None:
            stored = self.objects.objects.get(f"bucket/runs/{NAME}/trials/{trial_id}/result.json")
            data = None if stored is None else stored.data
        else:
            path = self.root / "runs" / NAME / "trials" / trial_id / "result.json"
            data = path.read_bytes() if path.exists() else None
        if data is not None:
            self.saw_record(trial_id, data)
        return data

    def _recorded(self) -> Iterator[str]:
        if self.objects is not None:
            for key in self.objects.objects:
                if key.endswith("/result.json"):
                    yield key.split("/")[-2]
        else:
            yield from recorded_ids(self.root / "runs" / NAME)

    def _has_network(self, trial_id: str) -> bool:
        assert self.objects is not None
        folder = f"bucket/runs/{NAME}/trials/{trial_id}"
        return all(f"{folder}/{name}" in self.objects.objects for name in ("model.safetensors", "cut.json"))

    # The environment.

    def store_of(self, node: str) -> Store:
        """Return the store as a node opens it."""
        if self.objects is None:
            return Store(self.root / "runs")
        mirror = self.root / node / "s3" / "bucket"
        return Store(mirror / "runs", Bucket(self.objects, "s3://bucket", mirror, patience=60.0))

    @contextmanager
    def _installed(self) -> Iterator[None]:
        """Replace clock, disk, locks, bucket, MLflow and the arithmetic of trials by simulated ones."""
        world = self.world

        def open_store(out: object, patience: float | None = None) -> Store:
            assert world.current is not None
            return self.store_of(world.current.node)

        real_flock = fcntl.flock

        def flock(file: Any, operation: int) -> None:
            if world.current is None or operation & fcntl.LOCK_NB or not operation & fcntl.LOCK_EX:
                return real_flock(file, operation)
            while True:
                try:
                    return real_flock(file, operation | fcntl.LOCK_NB)
                except BlockingIOError:
                    world.wait(0.5)

        @contextmanager
        def locked_client(out: Path) -> Iterator[Client]:
            yield self.client

        with ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("MLFLOW_TRACKING_URI", "http://simulated.invalid")
            patch.setattr(Store, "open", staticmethod(open_store))
            patch.setattr(fcntl, "flock", flock)
            patch.setattr(mlflow_view, "locked_client", locked_client)
            patch.setattr(trial_run, "execute_trial", self.execute_trial)
            patch.setattr(trial_run, "run_stage", self.run_stage)
            patch.setattr(lease, "threading", SimpleNamespace(Thread=self._thread, Event=self._event))
            stack.enter_context(world.clocks())
            stack.enter_context(self.disk.mounted())
            yield

    def _thread(self, target: Callable[[], None], name: str = "", daemon: bool = True) -> Any:
        return _SimulatedThread(self.world, target)

    def _event(self) -> Any:
        return _SimulatedEvent(self.world)


class _Events:
    """Checks that a record exists when its trial is reported to have ended."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def started(self, job: Job) -> None: ...

    def epoch(self, job: Job, report: EpochReport) -> None: ...

    def requeued(self, job: Job) -> None: ...

    def stage_ended(self, job: Job, error: str | None) -> None: ...

    def trial_ended(self, job: Job, result: TrialResult) -> None:
        assert self._sweep._standing(job.key) is not None

    def already_recorded(self, job: Job, result: TrialResult) -> None: ...

    def measured(self, job: Job, error: str | None) -> None: ...

    def reallocated(self, allocation: Allocation) -> None: ...

    def tick(self) -> None: ...


class _SimulatedThread:
    def __init__(self, world: World, target: Callable[[], None]) -> None:
        self._world, self._target = world, target

    def start(self) -> None:
        assert self._world.current is not None
        self._thread = self._world.start(self._world.current, self._target)

    def join(self) -> None:
        while not self._thread.ended:
            self._world.wait(0.1)


class _SimulatedEvent:
    def __init__(self, world: World) -> None:
        self._world, self._is_set = world, False

    def set(self) -> None:
        self._is_set = True

    def wait(self, timeout: float) -> bool:
        deadline = self._world.now + timeout
        while not self._is_set and self._world.now < deadline:
            self._world.wait(min(1.0, deadline - self._world.now))
        return self._is_set


def simulate(seed: int, root: Path) -> Sweep:
    """Run one seed in a folder that is removed afterwards; raise `Violation` where a guarantee does not hold."""
    folder = root / f"seed-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sweep = Sweep(seed, folder)
    try:
        sweep.run()
    except BaseException as problem:
        problem.add_note("\n".join([f"seed {seed}:", *sweep.world.log[-60:], f"replay: make simulate SEED={seed}"]))
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return sweep


def _weight(key: str) -> torch.Tensor:
    return torch.full((64,), float(int(key[:6], 16)))


def _epoch(stage: str, epoch: int, accuracy: float) -> EpochRow:
    return EpochRow(
        stage=stage, epoch=epoch, lr=0.1, train_loss=1.0, train_accuracy=accuracy, val_accuracy=accuracy, seconds=1.0
    )  # fmt: skip


__all__ = ["Sweep", "Violation", "simulate"]
