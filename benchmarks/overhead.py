"""Seconds a trial beyond the trial itself: prunesweep by search, beside plain Ray Tune scripts, in one call.

    python benchmarks/overhead.py --trials 20 100

Each side runs the same short trials (one small dense network, pruned, not retrained) at two sizes, each in a process of
its own; the slope between the sizes is the cost of a trial, and start-up falls out. `bare` runs them in as many warm
processes with nothing around them; what a side costs beyond it is bookkeeping. prunesweep's includes records, Parquet
and MLflow, not the measuring of latency, which is given apart. Of the scripts, `tune_mlflow` does what a user glues
together: warm workers, OptunaSearch, MLflowLoggerCallback. Medians of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from own_process import in_a_process

SEARCHES = ("grid", "random", "tpe", "nsga2")
SCRIPTS = ("tune_mlflow", "tune_reuse_actors", "tune")
SIDES = ("bare", *SEARCHES, *SCRIPTS)


def space(search: str, trials: int) -> dict[str, Any]:
    return {
        "name": "overhead",
        "base": {
            "model": "lenet_300_100",
            "data": "digits",
            "method": "l1_norm",
            "target": {"quantity": "params"},
            "baseline": {"epochs": 1},
            "retrain": {"name": "fine_tune", "epochs": 0},
        },
        "axes": {"target.sparsity": {"low": 0.1, "high": 0.9} | ({"grid": trials} if search == "grid" else {})},
        "search": "grid" if search == "grid" else {"name": search, "trials": trials},
    }


def prunesweep(search: str, trials: int, out: Path) -> dict[str, float]:
    from rich.console import Console

    from orchestrator import SearchSpace, run

    started = time.perf_counter()
    parsed = SearchSpace.parse(space(search, trials))
    outcome = run(parsed, out=out, console=Console(file=open(os.devnull, "w"), force_terminal=False))  # noqa: SIM115
    assert outcome.executed == outcome.measured == trials
    return {"seconds": time.perf_counter() - started, "measuring": outcome.seconds["measuring"]}


def specs(trials: int) -> list[Any]:
    from orchestrator import SearchSpace, plan

    return [trial.spec for trial in plan(SearchSpace.parse(space("grid", trials))).trials]


def short_trial(spec: Any, out: Path) -> dict[str, float]:
    from orchestrator.storage.store import Store
    from orchestrator.storage.workspace import Workspace
    from orchestrator.trial.run import run_trial

    result = run_trial(spec, Workspace(Store(out), "overhead"))
    assert result.status == "done", result.error
    return dict(result.metrics)


def bare(trials: int, out: Path) -> dict[str, float]:
    planned = specs(trials)
    started = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        assert len(list(pool.map(short_trial, planned, [out] * trials))) == trials
    return {"seconds": time.perf_counter() - started}


def script(side: str, trials: int, out: Path) -> dict[str, float]:
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    import optuna
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spec = specs(2)[0]

    def train(config: dict[str, float]) -> None:
        target = spec.target.model_copy(update={"sparsity": config["sparsity"]})
        tune.report(short_trial(spec.model_copy(update={"target": target}), out))

    started = time.perf_counter()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    searching: dict[str, Any] = {}
    callbacks: list[Any] = []
    param_space: dict[str, Any] = {"sparsity": tune.grid_search([0.1 + 0.8 * i / trials for i in range(trials)])}
    if side == "tune_mlflow":
        param_space = {"sparsity": tune.uniform(0.1, 0.9)}
        searching = {"search_alg": OptunaSearch(), "metric": "val_accuracy", "mode": "max", "num_samples": trials}
        callbacks = [MLflowLoggerCallback(tracking_uri=f"sqlite:///{out}/mlflow.db", experiment_name="overhead")]
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space=param_space,
        tune_config=tune.TuneConfig(reuse_actors=side != "tune", **searching),
        run_config=tune.RunConfig(storage_path=str(out / "ray"), verbose=0, callbacks=callbacks),
    )
    results = tuner.fit()
    assert len(results) == trials
    assert not results.errors
    ray.shutdown()
    return {"seconds": time.perf_counter() - started}


def run_side(side: str, trials: int, out: Path) -> dict[str, float]:
    """Run one side in this process; return the seconds from the first line to the last record."""
    if side in SEARCHES:
        return prunesweep(side, trials, out)
    return bare(trials, out) if side == "bare" else script(side, trials, out)


def slope(runs: list[list[dict[str, float]]], what: str, more: int) -> float:
    """Return the median over the repeats of the seconds that one more trial takes."""
    return statistics.median((many.get(what, 0.0) - few.get(what, 0.0)) / more for few, many in runs)


def table(runs_by_side: dict[str, list[list[dict[str, float]]]], more: int) -> tuple[str, dict[str, dict[str, float]]]:
    """Return milliseconds a trial as a Markdown table and as numbers."""
    milliseconds: dict[str, dict[str, float]] = {}
    for side, runs in runs_by_side.items():
        whole, measuring = (1000 * slope(runs, what, more) for what in ("seconds", "measuring"))
        milliseconds[side] = {"whole": whole, "measuring": measuring}
        milliseconds[side]["bookkeeping"] = whole - measuring - milliseconds["bare"]["whole"]
    lines = ["| side | ms a trial | of which latency | bookkeeping | start-up s |", "| --- | --- | --- | --- | --- |"]
    for side, ms in milliseconds.items():
        start = statistics.median(few["seconds"] for few, _ in runs_by_side[side])
        cells = [side, *(f"{ms[name]:.0f}" for name in ("whole", "measuring", "bookkeeping")), f"{start:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines), milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--sides", nargs="+", choices=SIDES[1:], default=SIDES[1:-1], help="beside `bare`")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    given = parser.parse_args()
    if given.side:
        print(json.dumps(run_side(given.side, given.trials[0], given.out)))
        return
    few, many = given.trials
    load = [os.getloadavg()]
    runs_by_side: dict[str, list[list[dict[str, float]]]] = {side: [] for side in ("bare", *given.sides)}
    for _ in range(given.repeats):
        for side, runs in runs_by_side.items():
            runs.append([in_a_process(__file__, side, trials=count) for count in (few, many)])
            print(f"{side}: {[round(run['seconds'], 1) for run in runs[-1]]} s", file=sys.stderr, flush=True)
    load.append(os.getloadavg())
    text, milliseconds = table(runs_by_side, many - few)
    print(text)
    if "tune_mlflow" in milliseconds:
        for search in [search for search in SEARCHES if search in milliseconds]:
            ratio = milliseconds[search]["bookkeeping"] / milliseconds["tune_mlflow"]["bookkeeping"]
            print(f"{search}: {ratio:.2f} of what plain Tune with OptunaSearch and MLflow costs (goal: at most 0.5)")
    if given.save:
        facts = {
            "trials": [few, many],
            "runs": runs_by_side,
            "milliseconds_a_trial": milliseconds,
            "date": date.today().isoformat(),
            "cpus": os.cpu_count(),
            "load_before_and_after": load,
            "versions": {name: version(name) for name in ("ray", "mlflow", "optuna", "torch")}
            | {"python": platform.python_version()},
        }
        given.save.parent.mkdir(parents=True, exist_ok=True)
        given.save.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
