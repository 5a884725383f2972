"""Seconds a trial beyond the trial itself: prunesweep beside a plain Ray Tune script, in one call.

    python benchmarks/overhead.py --trials 20 120

Each side runs the same short trials (one small dense network, pruned, not retrained) at two sizes, each in a process of
its own; the slope between the sizes is the cost of a trial, and start-up falls out. prunesweep's figure includes
records, Parquet, MLflow and the measuring of latency; plain Tune's includes Tune's own loggers and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

SIDES = ("prunesweep", "tune", "tune_reuse_actors")


def space(trials: int) -> dict[str, object]:
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
        "axes": {"target.sparsity": {"low": 0.1, "high": 0.9, "grid": trials}},
    }


def one(side: str, trials: int, out: Path) -> dict[str, float]:
    """Run one side in this process; seconds from the first line to the last record."""
    from rich.console import Console

    from orchestrator import SearchSpace, plan, run

    started = time.perf_counter()
    parsed = SearchSpace.parse(space(trials))
    if side == "prunesweep":
        outcome = run(parsed, out=out, console=Console(file=open(os.devnull, "w"), force_terminal=False))  # noqa: SIM115
        assert outcome.executed == trials
        assert outcome.measured == trials
        return {"seconds": time.perf_counter() - started, "measuring": outcome.seconds["measuring"]}

    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    import ray
    from ray import tune

    from orchestrator.spec.workspace import Workspace
    from orchestrator.trial.run import run_trial

    specs = [trial.spec for trial in plan(parsed).trials]
    workspace = Workspace(out, "overhead")

    def train(config: dict[str, int]) -> None:
        result = run_trial(specs[config["index"]], workspace)
        assert result.status == "done", result.error
        tune.report(result.metrics)

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={"index": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(reuse_actors=side == "tune_reuse_actors"),
        run_config=tune.RunConfig(storage_path=str(out / "ray"), verbose=0),
    )
    results = tuner.fit()
    assert len(results) == trials
    assert not results.errors
    ray.shutdown()
    return {"seconds": time.perf_counter() - started}


def in_a_process(side: str, trials: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--side", side, "--trials", str(trials), "--out", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{side} with {trials} trials failed:\n{done.stdout}{done.stderr}")
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[20, 120])
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    given = parser.parse_args()
    if given.side:
        print(json.dumps(one(given.side, given.trials[0], given.out)))
        return
    few, many = given.trials
    slopes: dict[str, float] = {}
    found: dict[str, list[dict[str, float]]] = {}
    for side in SIDES:
        found[side] = [in_a_process(side, count) for count in (few, many)]
        slopes[side] = (found[side][1]["seconds"] - found[side][0]["seconds"]) / (many - few)
        print(
            f"{side:>18}: {slopes[side]:.3f} s a trial, {found[side][0]['seconds']:.1f} s for {few} trials", flush=True
        )
    measuring = (found["prunesweep"][1]["measuring"] - found["prunesweep"][0]["measuring"]) / (many - few)
    print(f"of prunesweep's {slopes['prunesweep']:.3f} s, {measuring:.3f} s measure the latency alone on the machine")
    extra = slopes["prunesweep"] - slopes["tune_reuse_actors"]
    print(f"prunesweep - plain Tune with reuse_actors=True: {1000 * extra:+.0f} ms a trial (goal: below +50)")
    if given.save:
        facts = {
            "trials": [few, many],
            "runs": found,
            "seconds_a_trial": slopes,
            "measuring_seconds_a_trial": measuring,
            "date": date.today().isoformat(),
            "cpus": os.cpu_count(),
            "versions": {name: version(name) for name in ("ray", "mlflow", "torch")}
            | {"python": platform.python_version()},
        }
        given.save.parent.mkdir(parents=True, exist_ok=True)
        given.save.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
