"""Conformance suite of image sets: tests to inherit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from orchestrator.data import DATA
from orchestrator.data.images import ImageData, batches, open_data
from orchestrator.data.source import Source
from orchestrator.plugins import Registry


class DataSuite:
    """Inherit it as ``Test...`` and parametrize the class over ``data_name``, or set ``name``.

    ``data_params``: the parameters of the set; override the fixture where it needs files.
    """

    registry: ClassVar[Registry] = DATA
    name: ClassVar[str] = ""

    @pytest.fixture
    def data_name(self) -> str:
        return self.name

    @pytest.fixture
    def data_params(self, data_name: str) -> Mapping[str, Any]:
        return {}

    @pytest.fixture
    def source(self, data_name: str, data_params: Mapping[str, Any]) -> Source:
        source = self.registry.load(data_name)(**data_params)
        assert isinstance(source, Source)
        return source

    @pytest.fixture
    def opened(self, data_name: str, data_params: Mapping[str, Any], tmp_path: Path) -> ImageData:
        return open_data(data_name, data_params, device=torch.device("cpu"), folder=tmp_path / "cache")

    def test_examples_are_what_the_source_says(self, source: Source) -> None:
        for split in (source.train, source.test):
            examples = list(split())
            assert examples
            for image, label in examples:
                assert image.dtype == np.uint8
                assert image.shape == (source.size, source.size, source.channels)
                assert 0 <= label < len(source.classes)

    def test_reading_twice_reads_the_same(self, source: Source) -> None:
        for (first, label), (second, label_again) in zip(source.test(), source.test(), strict=True):
            assert label == label_again
            np.testing.assert_array_equal(first, second)

    def test_opened_nothing_is_lost_or_mixed(self, source: Source, opened: ImageData) -> None:
        assert len(opened.train) + len(opened.val) == sum(1 for _ in source.train())
        assert len(opened.test) == sum(1 for _ in source.test())
        assert set(opened.train.labels.tolist()) >= set(opened.val.labels.tolist())
        assert (opened.channels, opened.size, opened.class_count) == (source.channels, source.size, len(source.classes))
        first = next(iter(source.test()))[0]
        np.testing.assert_array_equal(opened.test.images[0].permute(1, 2, 0).numpy(), first)

    def test_batches_are_normalised_and_complete(self, opened: ImageData) -> None:
        images = 0
        for inputs, labels in batches(opened.test, 5, data=opened, generator=None, augment=False):
            assert inputs.dtype == torch.float32
            assert inputs.shape[1:] == (opened.channels, opened.size, opened.size)
            assert bool(inputs.isfinite().all())
            images += len(labels)
        assert images == len(opened.test)

    def test_what_the_source_says_is_what_it_is(self, data_name: str, data_params: Mapping[str, Any]) -> None:
        described = self.registry.describe(data_name)
        assert described.doc
        self.registry.parameters(data_name).model_validate(dict(data_params))
