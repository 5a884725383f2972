"""Searches and stoppers on recorded results: how soon a good front is found, and what stopping early costs.

    python benchmarks/search_quality.py                     # replay: nothing is trained
    python benchmarks/search_quality.py --record            # train the table anew (a few minutes on two cores)

The table holds every trial of a grid (five methods, ten sparsities, three schedules) of LeNet-5 on handwritten digits,
with the validation accuracy after every epoch of retraining. A search is replayed by answering its suggestions from the
table; a stopper by telling it the curves of trials that run four at a time, in a random order.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import itertools
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from orchestrator.analysis.pareto import hypervolume
from orchestrator.records.records import read_results
from orchestrator.report.charts.model import XY, Series
from orchestrator.report.svg import draw
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.search.adaptive.random_points import random_points
from orchestrator.sweep.search.base import Exhausted
from orchestrator.sweep.search.build import start_study
from orchestrator.sweep.search.observation import Observation, violation
from orchestrator.sweep.space.arms import expand_arms
from orchestrator.sweep.stopping.policy import StoppingPolicy, epochs_at, retraining_curve
from orchestrator.sweep.stopping.rule import Progress

HERE = Path(__file__).resolve().parent
TABLE = HERE / "results/search_table.csv"
SEEDS, TRIALS, SLOTS = 20, 60, 4
DENSE_MACS_AND_CHANCE = (0.1, 1.0)
"""The reference of the hypervolume: chance accuracy, and all MACs (as a share of the dense network's)."""


def space(**parts: Any) -> SearchSpace:
    return SearchSpace.parse(
        {
            "name": "search_table",
            "question": "What do searches and stoppers save?",
            "base": {
                "model": "lenet5",
                "data": {"name": "digits", "size": 16},
                "baseline": {"epochs": 10, "lr": 0.01, "batch_size": 32},
                "retrain": {"epochs": 8},
            },
            "axes": {
                "target.sparsity": [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.96],
                "retrain": ["fine_tune", "clr", "scaled_restart"],
            },
            "arms": [
                "random",
                "l1_norm",
                "taylor",
                "sfp",
                {"method": "network_slimming", "axes": {"method.penalty_weight": [1e-3, 1e-2]}},
            ],
            **parts,
        }
    )


@dataclass(frozen=True)
class Entry:
    """One recorded trial."""

    trial_id: str
    val_accuracy: float
    macs: float
    """Share of the dense network's."""
    curve: tuple[float, ...]


def record(path: Path) -> None:
    from orchestrator import run

    with tempfile.TemporaryDirectory() as folder:
        outcome = run(space(), out=folder)
        assert not outcome.failures, outcome.failures[0].error
        results = list(read_results(outcome.folder))
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["trial_id", "arm", "point", "val_accuracy", "accuracy", "macs", "curve"])
        for result in results:
            metrics = result.metrics
            table.writerow(
                [
                    result.trial_id,
                    result.arm,
                    json.dumps(result.point),
                    f"{metrics['val_accuracy']:.6f}",
                    f"{metrics['accuracy']:.6f}",
                    f"{metrics['macs'] / metrics['dense_macs']:.6f}",
                    " ".join(f"{value:.6f}" for value in retraining_curve(result)),
                ]
            )


def entries(path: Path) -> dict[str, Entry]:
    with path.open(newline="") as file:
        return {
            row["trial_id"]: Entry(
                row["trial_id"],
                float(row["val_accuracy"]),
                float(row["macs"]),
                tuple(float(value) for value in row["curve"].split()),
            )
            for row in csv.DictReader(file)
        }


def drawn(
    search: str, seed: int, table: dict[str, Entry], judge: Callable[[Entry], Observation], **parts: Any
) -> Iterator[Entry]:
    """The trials a search draws, in order, each once."""
    this = space(search={"name": search, "trials": TRIALS, "seed": seed}, **parts)
    arms = expand_arms(this)
    if search == "random":
        order = (arms[index].trial(point) for index, point in random_points([arm.axes for arm in arms], 10_000, seed))
        seen: set[str] = set()
        for trial in order:
            if trial.trial_id not in seen:
                seen.add(trial.trial_id)
                yield table[trial.trial_id]
        return
    proposer = start_study(this, arms)
    while True:
        try:
            trial = proposer.ask()
        except Exhausted:
            return
        yield table[trial.trial_id]
        proposer.tell(trial.trial_id, judge(table[trial.trial_id]))


def volume(found: list[Entry]) -> float:
    return hypervolume([(e.val_accuracy, e.macs) for e in found], DENSE_MACS_AND_CHANCE, ["max", "min"])


def mean(values: list[float]) -> str:
    return f"{fmean(values):.4f} ± {stdev(values):.4f}"


def fronts(table: dict[str, Entry]) -> dict[str, list[list[float]]]:
    """By search and seed: the share of the whole table's hypervolume after each trial."""
    whole = volume(list(table.values()))
    objectives = {"accuracy": "max", "macs": "min"}

    def judge(entry: Entry) -> Observation:
        return Observation("complete", (entry.val_accuracy, entry.macs))

    found: dict[str, list[list[float]]] = {}
    for search in ("random", "tpe", "nsga2"):
        for seed in range(SEEDS):
            order = list(itertools.islice(drawn(search, seed, table, judge, objectives=objectives), TRIALS))
            found.setdefault(search, []).append([volume(order[: n + 1]) / whole for n in range(TRIALS)])
    return found


def bests(table: dict[str, Entry], bound: str) -> dict[str, list[list[float]]]:
    """By search and seed: how far the best allowed trial so far is below the best of the table, after each trial."""
    allowed = {e.trial_id for e in table.values() if violation(bound, 1 - e.macs) <= 0}
    top = max(table[trial_id].val_accuracy for trial_id in allowed)

    def judge(entry: Entry) -> Observation:
        return Observation("complete", (entry.val_accuracy,), {"mac_sparsity": violation(bound, 1 - entry.macs)})

    found: dict[str, list[list[float]]] = {}
    for search in ("random", "tpe"):
        for seed in range(SEEDS):
            order = itertools.islice(drawn(search, seed, table, judge, constraints={"mac_sparsity": bound}), TRIALS)
            values = [entry.val_accuracy if entry.trial_id in allowed else 0.0 for entry in order]
            found.setdefault(search, []).append([top - best for best in itertools.accumulate(values, max)])
    return found


def stopped(table: dict[str, Entry], seed: int, **parts: Any) -> tuple[float, list[Entry]]:
    """Share of all epochs that were trained under a stopper, and the trials that were trained to their end."""
    policy = StoppingPolicy(space(**parts))
    order = list(table.values())
    random.Random(seed).shuffle(order)
    waiting, running, finished, epochs = iter(order), [], [], 0
    for worker, entry in enumerate(itertools.islice(waiting, SLOTS)):
        running.append((1.0, worker, entry, 1))
    heapq.heapify(running)
    while running:
        now, worker, entry, done = heapq.heappop(running)
        epochs += 1
        total = len(entry.curve)
        ended = done == total
        if ended:
            finished.append(entry)
        else:
            for index, rung in enumerate(policy.rungs):
                if epochs_at(rung, total) == done:
                    told = Progress(entry.trial_id, index, entry.curve[:done], {"macs": entry.macs})
                    ended = policy.decide(told) is not None
        follows = next(waiting, None) if ended else entry
        if follows is not None:
            heapq.heappush(running, (now + 1.0, worker, follows, 1 if ended else done + 1))
    return epochs / sum(len(entry.curve) for entry in order), finished


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--record", action="store_true", help="train the table anew")
    parser.add_argument("--plot", type=Path, default=HERE.parent / "docs/search-quality.svg")
    given = parser.parse_args()
    if given.record:
        record(TABLE)
    table = entries(TABLE)
    print(f"{len(table)} recorded trials; {SEEDS} seeds, mean ± standard deviation\n")

    marks = [9, 19, 29, 39, 59]
    volumes = fronts(table)
    print("Share of the table's hypervolume (validation accuracy, MACs) after so many trials")
    print("| search | " + " | ".join(str(mark + 1) for mark in marks) + " |")
    for search, curves in volumes.items():
        print(f"| {search} | " + " | ".join(mean([curve[mark] for curve in curves]) for mark in marks) + " |")

    bound = ">= 0.85"
    regrets = bests(table, bound)
    print(f"\nBest validation accuracy with mac_sparsity {bound}: how far below the table's best")
    print("| search | " + " | ".join(str(mark + 1) for mark in marks) + " |")
    for search, curves in regrets.items():
        print(f"| {search} | " + " | ".join(mean([curve[mark] for curve in curves]) for mark in marks) + " |")

    print(f"\nStoppers: all {len(table)} trials, {SLOTS} at a time in a random order")
    print("| stopper | epochs trained | best accuracy below the table's | hypervolume kept |")
    top, whole = max(e.val_accuracy for e in table.values()), volume(list(table.values()))
    single, several = {"accuracy": "max"}, {"accuracy": "max", "macs": "min"}
    for stopper, objectives in (
        ({"name": "asha"}, single),
        ({"name": "median"}, single),
        ({"name": "moasha"}, several),
        ({"name": "moasha", "keep": 0.1}, several),
    ):
        runs = [stopped(table, seed, stopper=stopper, objectives=objectives) for seed in range(SEEDS)]
        told = ", ".join(f"{key} {value}" if key != "name" else str(value) for key, value in stopper.items())
        lost = mean([top - max(e.val_accuracy for e in finished) for _, finished in runs])
        kept = mean([volume(finished) / whole for _, finished in runs])
        print(f"| {told} | {mean([share for share, _ in runs])} | {lost} | {kept} |")
    plot(volumes, given.plot)


def plot(volumes: dict[str, list[list[float]]], path: Path) -> None:
    """Mean and standard deviation of the hypervolume over trials, one line a search."""
    trials = list(range(5, TRIALS + 1, 5))
    series = []
    for style, (search, curves) in enumerate(volumes.items()):
        columns = [[curve[count - 1] for curve in curves] for count in trials]
        middle, spread = [fmean(column) for column in columns], [stdev(column) for column in columns]
        low = [m - s for m, s in zip(middle, spread, strict=True)]
        high = [m + s for m, s in zip(middle, spread, strict=True)]
        # A little apart from one another, or the error bars would hide each other.
        places = [count + 0.4 * (style - 1) for count in trials]
        series.append(Series(search, places, middle, low, high, line="solid", style=style))
    title = f"Hypervolume (validation accuracy, MACs), {SEEDS} seeds, mean ± standard deviation"
    path.write_text(draw(XY("search", title, "", "trials", "share of the whole table's", series)), encoding="utf-8")


if __name__ == "__main__":
    main()
