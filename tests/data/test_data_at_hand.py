"""Real image sets, where their files are available."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from orchestrator.data.images import batches, open_data
from orchestrator.data.parquet import parquet

SHARED = Path(os.environ.get("PRUNESWEEP_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "data"


@pytest.mark.parametrize(("name", "channels", "size", "count"), [("mnist", 1, 28, 10_000), ("cifar10", 3, 32, 10_000)])
def test_sets_as_published(name: str, channels: int, size: int, count: int) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"no {SHARED / name}")
    source = parquet(str(SHARED / name))
    assert (source.channels, source.size, len(source.classes)) == (channels, size, 10)
    labels = [label for _, label in source.test()]
    assert len(labels) == count
    assert set(labels) == set(range(10))


def test_mnist_opens_with_its_known_statistics(tmp_path: Path) -> None:
    if not (SHARED / "mnist").is_dir():
        pytest.skip(f"no {SHARED / 'mnist'}")
    data = open_data("parquet", {"path": str(SHARED / "mnist")}, device=torch.device("cpu"), folder=tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (54_000, 6_000, 10_000)
    assert data.mean == pytest.approx((0.1307,), abs=1e-4)
    assert data.std == pytest.approx((0.3081,), abs=1e-4)
    generator = torch.Generator().manual_seed(0)
    count = sum(len(y) for _, y in batches(data.train, 64, data=data, generator=generator, augment=True))
    assert count == 54_000
