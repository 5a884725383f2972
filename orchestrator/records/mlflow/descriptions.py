"""Names and Markdown descriptions of experiments, sweeps' runs and trials' runs in MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.records.sweep_summary import Row, SweepSummary, spread
from orchestrator.spec.redacting import redacted
from orchestrator.spec.result import TrialResult
from orchestrator.spec.trial import flatten

_LONGEST_NAME = 120
_LONGEST_VALUE = 30
_LONGEST_NOTE = 4900
"""Characters of a description, below the 5000 that MLflow promises for a tag."""
_ROWS = 12
_NAMED = frozenset({"method", "target.quantity", "target.sparsity", "retrain", "retrain.name", "method.name", "seed"})
"""Axes that every run name has anyway."""

_HOW_TO_READ = """\
- `accuracy`: share of the test images, of the retrained network, measured once; `pruned_accuracy`: right after the
  cut; `dense_accuracy`: before it. Searches, stoppers and the choice of a best trial see `val_accuracy` alone.
- `macs`, `params`: of the network after the cut; `achieved_sparsity`: what was really removed of the target quantity.
- `latency_ms`: median of one image, measured alone on the device after the trials.
- Curves: `<stage>/<quantity>` by epoch, for the stages baseline, sparse_training and retrain.
- FINISHED: done. KILLED: ended early by the stopper (tag `note`). FAILED: failed or diverged (tag `error`)."""


def run_name(result: TrialResult) -> str:
    """Return the name of a trial's run: method, target, retraining, axes, seed; ``l1_norm macs 70 % clr seed 0``."""
    spec = result.spec
    method = spec.method.name
    parts = [f"{result.arm}: {method}" if result.arm not in ("", method) else method, spec.target.quantity]
    parts.append("as listed" if spec.target.sparsity is None else f"{100 * spec.target.sparsity:g} %")
    parts.append(spec.retrain.name)
    for path, value in flatten(result.point).items():
        if path not in _NAMED:
            parts.append(f"{path.removesuffix('.name').rpartition('.')[-1]}={_short(value)}")
    name = " ".join(parts)
    seed = f" seed {spec.seed}"
    most = _LONGEST_NAME - len(seed)
    return (name if len(name) <= most else name[: most - 3] + "...") + seed


def run_description(result: TrialResult, sweep: str, parent: str) -> str:
    """Return a trial's description: configuration, results, files.

    Args:
        result: the record, which holds no latencies.
        sweep: name of the sweep, a folder in the store.
        parent: URL of the sweep's run.
    """
    lines = [f"Trial `{result.trial_id}` of [{sweep}]({parent}), **{result.status}**: {run_name(result)}."]
    if result.error:
        lines.append(f"Reason: {_plain(result.error)}")
    if result.note:
        lines.append(_plain(result.note))
    measured = result.metrics
    if "accuracy" in measured or "pruned_accuracy" in measured:
        table = ["| | dense | pruned | retrained |", "|---|---|---|---|"]
        shares = [_percent(measured.get(name)) for name in ("dense_accuracy", "pruned_accuracy", "accuracy")]
        table.append(f"| test accuracy | {' | '.join(shares)} |")
        for title, name in (("MACs", "macs"), ("parameters", "params")):
            dense, kept = _count(measured.get(f"dense_{name}")), _count(measured.get(name))
            table.append(f"| {title} | {dense} | {kept} | {kept} |")
        lines.append("\n".join(table))
    if result.reused:
        lines.append(f"Shared with other trials: {', '.join(result.reused)}.")
    lines.append(f"Record: `{sweep}/trials/{result.trial_id}/result.json` in the store; layers: artifact `layers.csv`.")
    return _join(lines)


def experiment_description(question: str, sweep: str, view: str) -> str:
    """Return the experiment's description: question, where to begin, how to read the columns.

    Args:
        question: the question that the sweep answers.
        sweep: its name.
        view: URL of the runs table with the columns that matter.
    """
    begin = (
        f"Begin with [the runs by validation accuracy, with the columns that matter]({view}), or with "
        f"[charts of accuracy against cost]({view}&compareRunsMode=CHART). The run **{sweep}** sums the sweep up; "
        "below it stands one run a trial. A trial is found by its id: `tags.trial_id = '...'` in the search field."
    )
    return _join([_bold(question), begin, _HOW_TO_READ])


def sweep_description(
    question: str, summary: SweepSummary | None, link: Callable[[str], str | None], report: str
) -> str:
    """Return the parent run's description: question, results, the front with links to its trials.

    Args:
        question: the question that the sweep answers.
        summary: the results; None while the sweep runs.
        link: URL of a trial's run, by trial id; None where there is none.
        report: URL of the parent run's artifacts.
    """
    lines = [_bold(question)]
    if summary is None:
        return _join([*lines, _HOW_TO_READ])
    lines.append(", ".join(f"{count} {status}" for status, count in summary.counts.items() if count) or "No trial yet.")
    if summary.best is not None:
        best = summary.best
        lines.append(
            f"Best by validation accuracy: {_linked(best, link)} ({best['method']}), "
            f"{_percent(best['val_accuracy'])} there, {_percent(best.get('accuracy'))} on the test images."
            + ("" if summary.dense_accuracy is None else f" Dense networks: {_percent(summary.dense_accuracy)} (mean).")
        )
    if summary.front:
        lines.append(_front_table(summary, link))
    files = f"[Artifacts]({report}): the search space as run, and the report once `prunesweep report` has written it."
    return _join([*lines, files, _HOW_TO_READ])


def _front_table(summary: SweepSummary, link: Callable[[str], str | None]) -> str:
    shown = spread(summary.front, _ROWS)
    objectives = ", ".join(f"{name} {'high' if way == 'max' else 'low'}" for name, way in summary.objectives.items())
    more = f" ({len(shown)} of them)" if len(shown) < len(summary.front) else ""
    count = len(summary.front)
    head = f"{count} {'trial' if count == 1 else 'trials'} on the front of {objectives}{more}; each is one seed:"
    extra = [name for name in summary.objectives if name not in ("val_accuracy", "accuracy", "macs")]
    titles = ["trial", "method", "retrain", "seed", "val. accuracy", "test accuracy", "MACs", *extra]
    table = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row in shown:
        cells = [_linked(row, link), row["method"], row["retrain"], str(row["seed"])]
        cells += [_percent(row.get("val_accuracy")), _percent(row.get("accuracy")), _count(row.get("macs"))]
        cells += [f"{row[name]:g}" for name in extra]
        table.append(f"| {' | '.join(cells)} |")
    return head + "\n\n" + "\n".join(table)


def _bold(text: str) -> str:
    return f"**{text}**" if text else ""


def _linked(row: Row, link: Callable[[str], str | None]) -> str:
    url = link(row["trial_id"])
    return f"`{row['trial_id']}`" if url is None else f"[{row['trial_id']}]({url})"


def _percent(value: Any) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _count(value: Any) -> str:
    return "" if value is None else f"{value:,.0f}"


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else json.dumps(value)
    text = redacted(value if isinstance(value, str) else text)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _plain(text: str) -> str:
    """Return text as one line of code, so that file names, shapes and addresses in errors are not read as Markdown."""
    line = " ".join(text.split()).replace("`", "'")
    return f"`{redacted(line)[:500]}`"


def _join(paragraphs: Sequence[str]) -> str:
    text = redacted("\n\n".join(paragraph for paragraph in paragraphs if paragraph))
    return text if len(text) <= _LONGEST_NOTE else text[:_LONGEST_NOTE].rsplit("\n", 1)[0] + "\n\n..."
