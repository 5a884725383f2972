"""scikit-learn's handwritten digits: an image set that needs no files and no network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.data.source import DataError, Example, Source
from orchestrator.data.split import stratified_split
from orchestrator.plugins import Count


def digits(size: Count = 8) -> Source:
    """1,797 grey 8x8 digits (UCI optical recognition test set), enlarged to ``size`` by bilinear interpolation.

    A fixed stratified fifth is the test set.
    """
    from sklearn.datasets import load_digits  # takes a second to import

    if size < 8:
        raise DataError(f"digits are 8x8; size must be at least 8, not {size}")
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    train, test = stratified_split(labels, 0.2)

    def examples(rows: NDArray[np.int64]) -> Iterator[Example]:
        for row in rows:
            image = images[row]
            if size != 8:
                image = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
            yield image[:, :, None], int(labels[row])

    return Source(
        channels=1,
        size=size,
        classes=tuple(str(name) for name in bunch.target_names),
        train=lambda: examples(train),
        test=lambda: examples(test),
        augment="none",
    )
