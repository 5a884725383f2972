"""Accuracy of LeNet-300-100 right after weights are removed, without retraining: a check on the methods' scores.

    python benchmarks/scores_sanity.py --data FOLDER    # with train.parquet and test.parquet of MNIST

Prints a Markdown table; the order is what matters, not the numbers. Random removal has to lose most. Second-order
scores lose less than magnitude where statistics are renewed on the way (``--steps``) or little goes. Of much at once
they promise too much: a weight's score takes it that all others stay, and MNIST's pixels resemble each other.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from orchestrator.spec.trial import Baseline, Choice, Retrain, Target, TrialSpec
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.training.loop import accuracy
from orchestrator.trial.context import Context
from orchestrator.trial.stages import prune

METHODS = ("random", "magnitude", "magnitude@uniform", "lwc", "obd", "layer_obs", "layer_obs@global", "mlprune")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the Parquet files")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument("--steps", type=float, nargs="+", default=[], help="sparsities to pass on the way")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="NAME, NAME:PARAMETER=VALUE,... or NAME@SCOPE")
    parser.add_argument("--model", default="lenet_300_100")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--out", type=Path, help="folder for trained networks, to use them again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        workspace = Workspace(Store(out), "scores_sanity", threads=1, data_cache=out / "data")
        print(f"| method | {' | '.join(f'{s:.0%} removed' for s in options.sparsities)} |", flush=True)
        print("|---" * (len(options.sparsities) + 1) + "|")
        for method in options.methods:
            cells, dense = [], []
            for sparsity in options.sparsities:
                accuracies = [_accuracies(options, method, sparsity, seed, workspace) for seed in range(options.seeds)]
                dense = [before for before, _ in accuracies]
                cells.append(_cell([after for _, after in accuracies]))
            print(f"| {method} | {' | '.join(cells)} |", flush=True)
        print(f"\nMean ± standard deviation of {options.seeds} seeds, % of the test set; dense: {_cell(dense)}.")


def _accuracies(
    options: argparse.Namespace, method: str, sparsity: float, seed: int, workspace: Workspace
) -> tuple[float, float]:
    """Return the test accuracy of the dense and of the pruned network."""
    method, _, scope = method.partition("@")
    name, _, parameters = method.partition(":")
    steps = [step for step in options.steps if step < sparsity]
    spec = TrialSpec(
        model=Choice(name=options.model),
        data=Choice(name="parquet", params={"path": options.data}),
        baseline=Baseline(epochs=options.epochs, lr=options.lr, batch_size=64),
        method=Choice(name=name, params=dict(_parameter(text) for text in parameters.split(",") if text)),
        target=Target.model_validate(
            {"quantity": "weights", "sparsity": sparsity, "scope": scope or None, "steps": steps or None}
        ),
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
