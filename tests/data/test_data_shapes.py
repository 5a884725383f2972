"""Shapes from the table of published sets equal those of their files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.data import DATA
from orchestrator.data.shapes import Shape, shape_of
from orchestrator.data.source import UnreadableData


@pytest.mark.parametrize("params", [{}, {"size": 28}])
def test_digits(params: dict[str, object]) -> None:
    source = DATA.load("digits")(**params)
    assert shape_of("digits", params) == Shape(source.channels, source.size, len(source.classes))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_published_sets_are_as_they_are_described(name: str) -> None:
    shape = re.search(r"(\d+)x\1 (grey|colour)", DATA.describe(name).doc)
    classes = re.search(r"of (\d+) classes", DATA.describe(name).doc)
    assert shape is not None
    expected = Shape({"grey": 1, "colour": 3}[shape[2]], int(shape[1]), int(classes[1]) if classes else 10)
    assert shape_of(name, {"path": "/nowhere"}) == expected


def test_imagenet_has_the_requested_size() -> None:
    assert shape_of("imagenet", {}) == Shape(3, 224, 1000)
    assert shape_of("imagenet", {"size": 64}) == Shape(3, 64, 1000)


def test_shapes_of_a_users_images_come_from_the_files(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / split / name / "1.png")
    params = {"path": str(tmp_path), "size": 12, "fingerprint": "x"}
    assert shape_of("image_folder", params) == Shape(3, 12, 2)
    with pytest.raises(UnreadableData):
        shape_of("image_folder", {"path": str(tmp_path / "nowhere"), "size": 12})
