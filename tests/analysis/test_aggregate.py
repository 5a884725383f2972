"""Replicates folded: means and sample deviations over seeds alone."""

import statistics

from orchestrator.analysis.aggregate import group_settings, mean_of

ROWS = [
    {"arm": a, "method": a, "seed": seed, "target_sparsity": s, "status": status, "accuracy": accuracy}
    for a, s, seed, status, accuracy in [
        ("l1_norm", 0.5, 0, "done", 0.90),
        ("l1_norm", 0.5, 1, "done", 0.94),
        ("l1_norm", 0.5, 2, "failed", None),
        ("l1_norm", 0.8, 0, "done", 0.70),
        ("random", 0.5, 0, "done", 0.60),
    ]
]


def test_mean_and_sample_deviation() -> None:
    values = [0.90, 0.94, 0.95]
    result = mean_of(values)
    assert result is not None
    assert (result.mean, result.sd, result.n) == (statistics.fmean(values), statistics.stdev(values), 3)
    assert mean_of([None, None]) is None
    single = mean_of([0.5, None])
    assert single is not None
    assert (single.sd, single.n, str(single)) == (None, 1, "0.5000")


def test_seeds_are_folded_and_failures_are_counted() -> None:
    result = group_settings(ROWS, ["target.sparsity", "seed"])
    assert [(s.arm, s.point, len(s.rows), s.unfinished) for s in result] == [
        ("l1_norm", {"target.sparsity": 0.5}, 2, 1),
        ("l1_norm", {"target.sparsity": 0.8}, 1, 0),
        ("random", {"target.sparsity": 0.5}, 1, 0),
    ]
    accuracy = result[0].metric("accuracy")
    assert accuracy is not None
    assert abs(accuracy.mean - 0.92) < 1e-12
