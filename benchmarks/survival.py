"""Kill drivers and workers of sweeps at random moments, and count records, executions and MLflow runs.

    python benchmarks/survival.py --trials 60 --kills 10

Every sweep is run by the command line in processes of its own and resumed at once after each SIGKILL, while workers of
the killed driver may still be running. Executions are counted by a plug-in method, which writes a line to a file of its
own when a trial starts and when it ends, so that the count does not depend on the store.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

METHOD = '''"""The l1 norm, noting when trials begin and end."""

import os
import time
from pathlib import Path

from orchestrator.methods.one_shot.l1_norm import L1Norm


def note(what, task):
    line = f"{what} {task.target.sparsity!r} {os.getpid()} {time.time()}\\n"
    log = os.open(Path(__file__).with_name("executions.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, line.encode())
    os.close(log)


class Counted(L1Norm):
    """Filters with the smallest sum of absolute weights go first; every execution is written down."""

    def scores(self, model, task):
        note("begin", task)
        return super().scores(model, task)

    def analyse(self, dense, before, after, task, scores):
        note("end", task)
        return {}
'''
SEARCHES = {"grid": "grid", "tpe": "{{name: tpe, trials: {trials}}}"}
SPACE = """
name: survival
question: Does it end as if nobody had killed anything?
base:
  model: lenet_300_100
  data: digits
  method: counted
  target: {{quantity: params}}
  baseline: {{epochs: 1, lr: 0.05, batch_size: 64}}
  retrain: {{name: fine_tune, epochs: 1}}
axes:
  target.sparsity: {{low: 0.2, high: 0.95, grid: {trials}}}
search: """
_START_SECONDS = 12.0
"""Time in seconds within which a kill before the first trial happens."""
_TRIAL_SECONDS = 1.0
_LONGEST_LIFE = 600.0


@dataclass
class Count:
    """Counts after a sweep; the last four must be zero."""

    search: str
    killed: str
    kills: int
    planned: int
    recorded: int
    begun: int
    """Number of executions started: one per trial, and one more for each that a kill interrupted."""
    cut_off: int
    """Number of executions without a record: the worker was killed, or another record was written first."""
    mlflow_runs: int
    executed_again: int
    """Number of executions of a trial that started after its record was written."""
    records_changed: int
    """Number of records whose file changed after it was first seen."""
    mlflow_twice: int
    """Number of trials with no child run or more than one."""
    unreadable: int
    """Number of records that are not valid JSON."""
    seconds: float

    @property
    def survived(self) -> bool:
        violations = (self.executed_again, self.records_changed, self.mlflow_twice, self.unreadable)
        return self.recorded == self.planned == self.mlflow_runs and not any(violations)


def prepare(folder: Path, search: str, trials: int) -> None:
    """Write the user's folder: a search space, a method, and the entry point that registers it."""
    (folder / "survival.yaml").write_text((SPACE + SEARCHES[search] + "\n").format(trials=trials))
    (folder / "counting.py").write_text(METHOD)
    known = folder / "counting-1.0.dist-info"
    known.mkdir()
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
    (known / "entry_points.txt").write_text("[orchestrator.methods]\ncounted = counting:Counted\n")


def survive(folder: Path, search: str, trials: int, kills: int, killed: str, dice: random.Random) -> Count:
    """Run a prepared sweep to its end under ``kills`` kills of ``killed`` (``driver`` or ``workers``).

    Raises:
        RuntimeError: a driver ended with an error, or never.
    """
    # Not among the last: the sweep would be over before the kill.
    moments = sorted(dice.randrange(max(1, trials * 9 // 10)) for _ in range(kills))
    proof = _Proof(folder, dice)
    started = time.monotonic()
    driver = proof.start()
    try:
        for moment in moments:
            proof.wait_for(moment, driver)
            if killed == "driver":
                driver = proof.kill_driver(driver)
            else:
                proof.kill_worker(driver)
        proof.finish(driver)
    finally:
        proof.clean_up(driver)
    return proof.count(search, killed, trials, time.monotonic() - started)


class _Proof:
    def __init__(self, folder: Path, dice: random.Random) -> None:
        self._folder, self._dice = folder, dice
        self._sweep = folder / "runs/survival"
        self._seen: dict[str, tuple[int, int]] = {}
        self._orphans: dict[int, str] = {}
        self._kills = 0

    def start(self) -> subprocess.Popen[bytes]:
        log = open(self._folder / "said.txt", "ab")  # noqa: SIM115  open as long as the driver runs
        command = [sys.executable, "-m", "orchestrator", "run", "survival.yaml"]
        return subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=subprocess.STDOUT)

    def look(self) -> int:
        """Register new records and return their total number."""
        for path in self._sweep.glob("trials/*/result.json"):
            found = path.stat()
            self._seen.setdefault(path.parent.name, (found.st_ino, found.st_mtime_ns))
        return len(self._seen)

    def wait_for(self, records: int, driver: subprocess.Popen[bytes]) -> None:
        """Wait until a number of trials is recorded, and a random time longer, unless the sweep ends first."""
        longer = _START_SECONDS if self.look() >= records else _TRIAL_SECONDS
        self._until(lambda: self.look() >= records or driver.poll() is not None)
        end = time.monotonic() + self._dice.uniform(0, longer)
        self._until(lambda: time.monotonic() > end or driver.poll() is not None)

    def kill_driver(self, driver: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """Kill the driver by SIGKILL and start the next one at once."""
        if driver.poll() is None:
            self._orphans |= descendants(driver.pid)
            os.kill(driver.pid, signal.SIGKILL)
            self._kills += 1
        elif driver.returncode:
            raise RuntimeError(f"the driver ended with {driver.returncode}:\n{self._said()}")
        driver.wait()
        self.look()
        return self.start()

    def kill_worker(self, driver: subprocess.Popen[bytes]) -> None:
        """Kill a random worker of the sweep by SIGKILL, unless the sweep has ended."""

        def workers() -> list[int]:
            return [pid for pid, name in descendants(driver.pid).items() if name.startswith("ray::ImplicitFunc")]

        self._until(lambda: bool(workers()) or driver.poll() is not None)
        found = workers()
        if found:
            with suppress(ProcessLookupError):
                os.kill(self._dice.choice(found), signal.SIGKILL)
                self._kills += 1
        self.look()

    def finish(self, driver: subprocess.Popen[bytes]) -> None:
        self._until(lambda: self.look() < 0 or driver.poll() is not None)
        if driver.returncode:
            raise RuntimeError(f"the driver ended with {driver.returncode}:\n{self._said()}")

    def clean_up(self, driver: subprocess.Popen[bytes]) -> None:
        """End the processes that a killed driver left behind or that did not end by themselves."""
        if driver.poll() is None:
            self._orphans |= descendants(driver.pid)
            driver.kill()
            driver.wait()
        for pid, name in self._orphans.items():
            if command_of(pid) == name:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def count(self, search: str, killed: str, planned: int, seconds: float) -> Count:
        recorded: dict[str, dict[str, Any]] = {}
        stood: dict[str, float] = {}
        unreadable = changed = 0
        for path in self._sweep.glob("trials/*/result.json"):
            found = path.stat()
            changed += self._seen.get(path.parent.name) != (found.st_ino, found.st_mtime_ns)
            try:
                record = json.loads(path.read_text())
                stood[repr(record["spec"]["target"]["sparsity"])] = found.st_mtime_ns / 1e9
            except ValueError:
                unreadable += 1
            else:
                recorded[path.parent.name] = record
        changed += len(self._seen.keys() - recorded.keys())
        lines = [line.split() for line in (self._folder / "executions.log").read_text().splitlines()]
        begun = [(trial, float(when)) for what, trial, _, when in lines if what == "begin"]
        runs = children(self._folder / "runs/mlflow.db")
        return Count(
            search=search,
            killed=killed,
            kills=self._kills,
            planned=planned,
            recorded=sum(record["status"] == "done" for record in recorded.values()),
            begun=len(begun),
            cut_off=len(begun) - len(recorded),
            mlflow_runs=sum(runs.values()),
            executed_again=sum(trial in stood and when > stood[trial] for trial, when in begun),
            records_changed=changed,
            mlflow_twice=sum(runs[trial_id] != 1 for trial_id in recorded.keys() | runs.keys()),
            unreadable=unreadable,
            seconds=round(seconds, 1),
        )

    def _until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _LONGEST_LIFE
        while not happened():
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing for {_LONGEST_LIFE:.0f} s:\n{self._said()}")
            time.sleep(0.02)

    def _said(self) -> str:
        return (self._folder / "said.txt").read_text(errors="replace")[-3000:]


def children(database: Path) -> Counter[str]:
    """Count the finished MLflow runs of each trial."""
    query = (
        "select t.value from tags t join runs r using (run_uuid) "
        "where t.key = 'trial_id' and r.lifecycle_stage = 'active' and r.status = 'FINISHED'"
    )
    connection = sqlite3.connect(database)
    try:
        return Counter(value for (value,) in connection.execute(query))
    finally:
        connection.close()


def descendants(root: int) -> dict[int, str]:
    """Return the ids and commands of a process's descendants."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])

    def below(pid: int) -> bool:
        return pid in parents and (parents[pid] == root or below(parents[pid]))

    return {pid: command_of(pid) for pid in parents if below(pid)}


def command_of(pid: int) -> str:
    """Return a process's command line without its state; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0")
    except OSError:
        return ""


def table(counts: list[Count]) -> str:
    """Format the counts as Markdown."""
    names = [name for name in asdict(counts[0]) if name != "seconds"]
    rows = [[str(asdict(count)[name]) for name in names] for count in counts]
    lines = [[name.replace("_", " ") for name in names], ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--search", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--killed", nargs="+", choices=("driver", "workers"), default=["driver", "workers"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="write the counts as JSON")
    given = parser.parse_args()
    counts: list[Count] = []
    for killed in given.killed:
        for search in given.search:
            with tempfile.TemporaryDirectory() as folder:
                prepare(Path(folder), search, given.trials)
                dice = random.Random(f"{given.seed}/{killed}/{search}")
                counts.append(survive(Path(folder), search, given.trials, given.kills, killed, dice))
            print(f"{search}, {killed} killed: {counts[-1].seconds} s", file=sys.stderr, flush=True)
    print(table(counts))
    if given.save:
        facts = {
            "seed": given.seed,
            "sweeps": [asdict(count) for count in counts],
            "date": date.today().isoformat(),
            "cpus": os.cpu_count(),
            "load": os.getloadavg(),
            "versions": {name: version(name) for name in ("ray", "mlflow", "optuna", "torch")},
        }
        given.save.parent.mkdir(parents=True, exist_ok=True)
        given.save.write_text(json.dumps(facts, indent=1) + "\n")
    sys.exit(0 if all(count.survived for count in counts) else 1)


if __name__ == "__main__":
    main()
