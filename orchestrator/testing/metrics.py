"""The promises every metric keeps, as tests to inherit."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch

from orchestrator.data.images import ImageData, Split
from orchestrator.data.source import default_augment
from orchestrator.metrics.extra import Networks, compute
from orchestrator.metrics.table import metric_rows
from orchestrator.spec.metric import METRICS, Metric
from orchestrator.testing.networks import CHANNELS, CLASSES, SIZE, Chain

UNITS = ("share", "ms", "x", "")


class MetricSuite:
    """Inherit it as ``Test...`` and parametrize the class over ``metric_name``, or set ``name``.

    A metric of the user's own is named as in a search space; one of every trial, by its column.
    """

    name: ClassVar[str] = ""

    @pytest.fixture
    def metric_name(self) -> str:
        assert self.name, "set `name`, or parametrize the class over `metric_name`"
        return self.name

    @pytest.fixture
    def row(self, metric_name: str) -> Metric:
        if metric_name in METRICS:
            return METRICS[metric_name]
        rows = metric_rows([metric_name])
        return rows[next(reversed(rows))]

    @pytest.fixture
    def networks(self) -> Networks:
        torch.manual_seed(0)
        images = torch.randint(0, 256, (16, CHANNELS, SIZE, SIZE), dtype=torch.uint8)
        split = Split(images, torch.arange(16) % CLASSES)
        data = ImageData(
            train=split,
            val=split,
            test=split,
            channels=CHANNELS,
            size=SIZE,
            classes=tuple(str(label) for label in range(CLASSES)),
            mean=(0.5,) * CHANNELS,
            std=(0.25,) * CHANNELS,
            augment=default_augment(CHANNELS),
        )
        return Networks(Chain().eval(), Chain().eval(), torch.zeros(1, CHANNELS, SIZE, SIZE), data)

    def test_its_row_says_all_that_views_need(self, row: Metric) -> None:
        assert row.name.isidentifier()
        assert row.dtype in ("int", "float")
        assert row.unit in UNITS
        assert row.split in ("test", "val", None)
        assert row.label
        assert row.doc

    def test_it_computes_one_number_and_leaves_the_networks_alone(self, metric_name: str, networks: Networks) -> None:
        if metric_name in METRICS:
            pytest.skip("measured by every trial")
        before = [tensor.clone() for tensor in networks.pruned.state_dict().values()]
        values, notes = compute([metric_name], networks)
        assert not notes
        ((column, value),) = values.items()
        assert math.isfinite(value)
        assert compute([metric_name], networks) == ({column: value}, [])
        assert all(map(torch.equal, before, networks.pruned.state_dict().values()))
        assert not networks.pruned.training


__all__ = ["MetricSuite"]
