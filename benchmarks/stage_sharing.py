"""Compare a sweep whose trials share stages with the same trials sharing none: seconds and number of trainings.

    python benchmarks/stage_sharing.py

4 penalties x 6 sparsities x 3 budgets of retraining: sharing needs 1 dense training, 4 sparse trainings and 72
retrainings. Beside it, in the same call and by the same machinery, every trial trains its own dense and its own sparse
network, because its learning rate differs from the others' in the ninth digit. What is compared is the time of the
trials: starting up and measuring latency take both sides the same.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from own_process import in_a_process

PENALTIES = [1e-4, 3e-4, 1e-3, 3e-3]
SPARSITIES = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
BUDGETS = [1, 2, 3]
RATE = 0.05
SIDES = ("shared", "alone")


def space(side: str, epochs: int) -> dict[str, Any]:
    """Return the search space of one side; ``epochs`` are those of a dense and of a sparse training."""
    method = {"name": "network_slimming", "sparse_epochs": epochs}
    base = {
        "model": "lenet_300_100",
        "data": "digits",
        "target": {"quantity": "params"},
        "retrain": "clr",
        "baseline": {"epochs": epochs, "lr": RATE},
    }
    if side == "shared":
        axes = {"method.penalty_weight": PENALTIES, "target.sparsity": SPARSITIES, "retrain.epochs": BUDGETS}
        return {"name": side, "base": base | {"method": method}, "axes": axes}
    arms = [
        {
            "name": f"trial{number}",
            "method": method | {"penalty_weight": penalty},
            "target": {"quantity": "params", "sparsity": sparsity},
            "retrain": {"name": "clr", "epochs": budget},
            "baseline": {"epochs": epochs, "lr": RATE * (1 + 1e-9 * number)},
        }
        for number, (penalty, sparsity, budget) in enumerate(product(PENALTIES, SPARSITIES, BUDGETS))
    ]
    return {"name": side, "base": base, "arms": arms}


def run_side(side: str, epochs: int, out: Path) -> dict[str, Any]:
    """Run one side in this process; return its seconds, its number of trainings and their epochs."""
    from rich.console import Console

    from orchestrator import SearchSpace, run
    from orchestrator.records.records import read_results

    parsed = SearchSpace.parse(space(side, epochs))
    outcome = run(parsed, out=out, console=Console(file=open(os.devnull, "w"), force_terminal=False))  # noqa: SIM115
    results = [result for result in read_results(outcome.folder) if result.status == "done"]
    assert len(results) == outcome.executed == len(PENALTIES) * len(SPARSITIES) * len(BUDGETS)
    trained = outcome.trained | {"retrain": outcome.executed}
    retrained = sum(row.stage == "retrain" for result in results for row in result.epochs)
    return {
        "seconds": round(outcome.seconds["trials"], 1),
        "trainings": trained,
        "epochs": epochs * (trained["baseline"] + trained["sparse_training"]) + retrained,
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Format both sides and their ratios as Markdown."""
    names = ["baseline", "sparse_training", "retrain"]
    lines = [["", *(name.replace("_", " ") + "s" for name in names), "epochs", "seconds"], ["---"] * 6]
    for side, side_results in results.items():
        trainings, epochs, seconds = (side_results[key] for key in ("trainings", "epochs", "seconds"))
        lines.append([side, *(str(trainings[name]) for name in names), str(epochs), str(seconds)])
    ratios = [f"{results['alone'][what] / results['shared'][what]:.1f} x" for what in ("epochs", "seconds")]
    lines.append(["alone / shared", "", "", "", *ratios])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=30, help="of a dense and of a sparse training")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    given = parser.parse_args()
    if given.side:
        print(json.dumps(run_side(given.side, given.epochs, given.out)))
        return
    load = os.getloadavg()
    results = {side: in_a_process(__file__, side, epochs=given.epochs) for side in SIDES}
    print(table(results))
    if given.save:
        facts = {
            "epochs": given.epochs,
            "sides": results,
            "date": date.today().isoformat(),
            "cpus": os.cpu_count(),
            "load": load,
            "versions": {name: version(name) for name in ("ray", "torch")},
        }
        given.save.parent.mkdir(parents=True, exist_ok=True)
        given.save.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
