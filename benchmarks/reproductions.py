"""Print the tables of docs/reproductions.md, which compare sweeps with papers 002 (table 1) and 003 (table 4).

    prunesweep run searchspaces/mnist_lenet300_published.yaml --set data.path=FOLDER
    prunesweep run searchspaces/mnist_lenet5_published.yaml --set data.path=FOLDER
    python benchmarks/reproductions.py runs/mnist_lenet300_published runs/mnist_lenet5_published

Prints Markdown; with ``--csv FILE`` also writes one line a trial.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.analysis.papers import table
from orchestrator.records.records import read_results
from orchestrator.spec.result import TrialResult

PRINTED_AS = {
    "random": "Random", "obd": "OBD", "lwc": "LWC", "dns": "DNS", "layer_obs": "L-OBS", "mlprune": "MLPrune",
    "autoprune": "AutoPrune",
}  # fmt: skip
NETWORKS = {"lenet_300_100": "LeNet-300-100", "lenet5": "LeNet-5"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    results = [result for folder in options.sweeps for result in read_results(folder) if result.status == "done"]
    for network in dict.fromkeys(result.spec.model.name for result in results):
        trials = [result for result in results if result.spec.model.name == network]
        print(f"### {NETWORKS[network]}\n\n{errors(network, trials)}\n\n{layers(network, trials)}\n")
    if options.csv:
        write(options.csv, results)


def errors(network: str, results: list[TrialResult]) -> str:
    """Return the table of test errors in percent, published and ours."""
    lines = [
        "| method | kept: published | ours | error before: published | ours | after: published | ours | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in PRINTED_AS:
        own = [result for result in results if result.spec.method.name == method]
        if not own:
            continue
        published = published_row(network, method)
        before, after = published.get("before"), published.get("after")
        kept = _mean([100 * (1 - result.metrics["weight_sparsity"]) for result in own])
        dense = _mean([100 * (1 - result.metrics["dense_accuracy"]) for result in own])
        ours = [100 * (1 - result.metrics["accuracy"]) for result in own]
        difference = "" if after is None else f"{statistics.fmean(ours) - after:+.2f}"
        cells = (_cell(published.get("kept")), kept, _cell(before), dense, _cell(after), _mean(ours), difference)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def layers(network: str, results: list[TrialResult]) -> str:
    """Return the table of the share of weights kept by layer, with paper 002, table 4."""
    published = {
        row["layer"]: row for row in table("002", 4).rows if row["group"] == NETWORKS[network].replace("-", "_")
    }
    columns = {"lwc": "LWC_han2015", "dns": "DNS_guo2016", "mlprune": "MLPrune"}
    methods = [m for m in PRINTED_AS if any(r.spec.method.name == m for r in results)]
    heads = [f"{m}{' (published)' if m in columns else ''}" for m in methods]
    lines = [f"| layer | weights | {' | '.join(heads)} |", "|---" * (len(methods) + 2) + "|"]
    for name, row in published.items():
        cells = []
        for method in methods:
            shares = [_kept_share(r, name, row["weight_count"]) for r in results if r.spec.method.name == method]
            published_share = f" ({row[columns[method]]})" if method in columns else ""
            cells.append(f"{statistics.fmean(shares):.2f}{published_share}")
        lines.append(f"| {name} | {row['weight_count']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def published_row(network: str, method: str) -> dict[str, Any]:
    if method == "autoprune":
        rows = [r for r in table("003", 4).rows if r["model"] == NETWORKS[network] and "AutoPrune" in r["method"]]
        row = max(rows, key=lambda row: row["cr_factor"])
        return {"kept": row["kept_pct"], "before": row["error_before_pct"], "after": row["error_after_pct"]}
    for row in table("002", 1).rows:
        if row["architecture"] == NETWORKS[network] and row["method"] == PRINTED_AS[method]:
            return {
                "kept": row["cr_percent_kept"], "before": row["original_error_pct"], "after": row["final_error_pct"]
            }  # fmt: skip
    return {}


def write(path: Path, results: Iterable[TrialResult]) -> None:
    """Write one line per trial: target, accuracies, and the share kept of every layer."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["model", "method", "target", "seed", "dense_accuracy", "pruned_accuracy", "accuracy", "weight_sparsity",
             "kept_by_layer", "trial_id", "commit"]
        )  # fmt: skip
        for r in sorted(results, key=lambda r: (r.spec.model.name, r.spec.method.name, r.spec.seed)):
            facts = [
                round(r.metrics[m], 6) for m in ("dense_accuracy", "pruned_accuracy", "accuracy", "weight_sparsity")
            ]
            target = r.spec.target.model_dump(exclude_defaults=True)
            kept = {layer.layer: layer.nonzero for layer in r.layers}
            writer.writerow(
                [r.spec.model.name, r.spec.method.name, json.dumps(target), r.spec.seed, *facts, json.dumps(kept),
                 r.trial_id, r.commit]
            )  # fmt: skip


def _kept_share(result: TrialResult, layer: str, weights: int) -> float:
    """Return the percentage of a layer's weights kept; records count biases too, which are never removed."""
    chosen = [row for row in result.layers if layer in ("total", row.layer)]
    biases = sum(row.dense_params for row in chosen) - weights
    return 100 * (sum(row.nonzero for row in chosen) - biases) / weights


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
