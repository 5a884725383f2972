"""Simulate a thousand sweeps under kills, hangs, torn writes, full disks, late messages and second drivers.

`Sweep.check` holds the guarantees. A failing seed prints its log and the command that replays it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from sweep import Sweep, Violation, simulate

SEEDS = int(os.environ.get("SEEDS", "1000"))
ONLY = os.environ.get("SEED")
"""One seed, replayed."""


def run_seeds(seeds: range, root: Path) -> Counter[str]:
    """Run seeds one after another; return how often each fault occurred."""
    torch.set_num_threads(1)
    faults = Counter[str]()
    for seed in seeds:
        faults += simulate(seed, root / str(os.getpid())).faults
    return faults


def test_the_guarantees_hold_for_every_seed(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    root = memory / f"prunesweep-simulation-{os.getpid()}" if memory.is_dir() else tmp_path
    seeds = range(int(ONLY), int(ONLY) + 1) if ONLY else range(SEEDS)
    n_processes = 1 if ONLY else min(4, os.cpu_count() or 1)
    faults = Counter[str]()
    with ProcessPoolExecutor(n_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        batches = [seeds[start : start + 25] for start in range(0, len(seeds), 25)]
        for batch_faults in pool.map(run_seeds, batches, [root] * len(batches)):
            faults += batch_faults
    print(f"{len(seeds)} seeds; faults: {dict(faults)}")
    if len(seeds) >= 100:
        assert set(faults) == {
            "kill of a driver", "kill of a worker", "crash of a node", "hang", "full disk", "bucket away",
            "MLflow away", "doubled message", "second driver", "out of memory",
        }  # fmt: skip


def test_a_seed_is_the_same_sweep_every_time(tmp_path: Path) -> None:
    logs = [simulate(7, tmp_path).world.log for _ in range(2)]
    assert logs[0] == logs[1]
    assert simulate(8, tmp_path).world.log != logs[0]


@pytest.mark.parametrize("promise", ["has no record", "has changed", "has 2 child runs", "though it has a record"])
def test_the_checks_find_what_is_broken(promise: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break one thing after a sweep whose guarantees hold."""
    sweep = Sweep(3, tmp_path)
    sweep.run()
    trial_id = sweep.plan.trials[0].trial_id
    check = sweep.check
    if promise == "has no record":
        monkeypatch.setattr(sweep, "_standing", lambda trial_id: None)
    elif promise == "has changed":
        monkeypatch.setitem(sweep.records, trial_id, sweep.records[trial_id] + b" ")
    elif promise == "has 2 child runs":
        sweep.server.runs["double"] = dict(sweep.server.children(trial_id)[0])
    else:
        check = partial(sweep.check_unrecorded, trial_id)
    with pytest.raises(Violation, match=promise):
        check()
