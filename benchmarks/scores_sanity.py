"""Accuracy of LeNet-300-100 right after weights are removed, without retraining: a check on the methods' scores.

    python benchmarks/scores_sanity.py --data FOLDER    # with train.parquet and test.parquet of MNIST

Random removal has to lose most, magnitude less, second-order scores least; the order is what matters here, not the
numbers. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from orchestrator.spec.trial import Baseline, Choice, Retrain, Target, TrialSpec
from orchestrator.spec.workspace import Workspace
from orchestrator.training.loop import accuracy
from orchestrator.trial.context import Context
from orchestrator.trial.shared import prune

METHODS = ("random", "magnitude", "lwc", "obd", "layer_obs", "mlprune")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the Parquet files")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, help="names, also with a parameter: mlprune:damping=0.1"
    )
    parser.add_argument("--scope", choices=["global", "uniform"], help="for all methods; by default each has its own")
    parser.add_argument("--model", default="lenet_300_100")
    parser.add_argument("--out", type=Path, help="folder for trained networks, to use them again")
    options = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        workspace = Workspace(out, "scores_sanity", threads=2, data_cache=out / "data")
        print(f"| method | {' | '.join(f'{s:.0%} removed' for s in options.sparsities)} | seconds |", flush=True)
        print("|---" * (len(options.sparsities) + 2) + "|")
        for method in options.methods:
            started = time.perf_counter()
            cells, dense = [], []
            for sparsity in options.sparsities:
                found = [_accuracies(options, method, sparsity, seed, workspace) for seed in range(options.seeds)]
                dense = [before for before, _ in found]
                cells.append(_cell([after for _, after in found]))
            seconds = time.perf_counter() - started
            print(f"| {method} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)
        print(f"\nMean ± standard deviation of {options.seeds} seeds, % of the test set; dense: {_cell(dense)}.")


def _accuracies(
    options: argparse.Namespace, method: str, sparsity: float, seed: int, workspace: Workspace
) -> tuple[float, float]:
    """Test accuracy of the dense and of the pruned network."""
    name, _, parameters = method.partition(":")
    spec = TrialSpec(
        model=Choice(name=options.model),
        data=Choice(name="parquet", params={"path": options.data}),
        baseline=Baseline(epochs=options.epochs, lr=0.05, batch_size=64),
        method=Choice(name=name, params=dict(_parameter(text) for text in parameters.split(",") if text)),
        target=Target(quantity="weights", sparsity=sparsity, scope=options.scope),
        retrain=Retrain(name="fine_tune", epochs=0),
        seed=seed,
    )
    context = Context(spec, workspace, lambda row, epochs: None)
    pruned = prune(context)
    return pruned.dense_facts["accuracy"], accuracy(pruned.network, context.data.test, context.data)[0]


def _parameter(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    if value in ("true", "false"):
        return name, value == "true"
    return name, float(value) if any(c in value for c in ".e") else int(value)


def _cell(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * spread:.2f}"


if __name__ == "__main__":
    main()
