"""Published image sets, read by torchvision's classes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np

from orchestrator.data.decoding import decode_files
from orchestrator.data.source import DataError, Example, Source, UnreadableData, default_augment
from orchestrator.plugins import Count
from orchestrator.storage.locks import acquire_lock

_CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def mnist(path: str = "~/.cache/prunesweep/datasets", download: bool = False) -> Source:
    """Handwritten digits, 28x28 grey, 60,000 + 10,000 (LeCun et al. 1998)."""
    from torchvision.datasets import MNIST

    return _source("mnist", MNIST, path, download, channels=1, size=28)


def fashion_mnist(path: str = "~/.cache/prunesweep/datasets", download: bool = False) -> Source:
    """Articles of clothing, 28x28 grey, 60,000 + 10,000 (Xiao et al. 2017)."""
    from torchvision.datasets import FashionMNIST

    return _source("fashion_mnist", FashionMNIST, path, download, channels=1, size=28)


def cifar10(path: str = "~/.cache/prunesweep/datasets", download: bool = False) -> Source:
    """Small photographs, 32x32 colour, 50,000 + 10,000 of 10 classes (Krizhevsky 2009).

    Normalised by the statistics of published pruning code (mean .4914, .4822, .4465; deviation .2023, .1994, .2010);
    these deviations are means over images, smaller than the deviation over all pixels.
    """
    from torchvision.datasets import CIFAR10

    return _source("cifar10", CIFAR10, path, download, channels=3, size=32, statistics=_CIFAR10_STATISTICS)


def cifar100(path: str = "~/.cache/prunesweep/datasets", download: bool = False) -> Source:
    """Small photographs, 32x32 colour, 50,000 + 10,000 of 100 classes (Krizhevsky 2009)."""
    from torchvision.datasets import CIFAR100

    return _source("cifar100", CIFAR100, path, download, channels=3, size=32)


def imagenet(path: str = "~/.cache/prunesweep/datasets", size: Count = 224) -> Source:
    """ImageNet 2012, short side to ``size`` and the middle square; its validation images are the test set.

    Not downloaded: ``path`` holds the archives, or ``meta.bin``, ``train/`` and ``val/`` as torchvision unpacks them.
    Decoded images take ``3 * size ** 2`` bytes each: 193 GB at 224.
    """
    from torchvision.datasets import ImageNet

    folder = Path(path).expanduser()

    def opened(split: str) -> Any:
        try:
            return ImageNet(str(folder), split=split)
        except (RuntimeError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise UnreadableData(
                f"imagenet not found under {str(folder)!r}; put its archives there ({_one_line(error)})"
            ) from error

    def examples(split: Any) -> Iterator[Example]:
        return decode_files(((Path(file), label) for file, label in split.samples), size)

    test = opened("val")
    return Source(
        channels=3,
        size=size,
        classes=tuple(names[0] for names in test.classes),
        train=lambda: examples(opened("train")),
        test=lambda: examples(test),
        augment="crop_flip",
        statistics=_IMAGENET_STATISTICS,
    )


def _source(
    name: str,
    dataset_class: Callable[..., Any],
    path: str,
    download: bool,
    *,
    channels: int,
    size: int,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Source:
    folder = Path(path).expanduser()

    def opened(train: bool) -> Any:
        if download:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            # Concurrent workers must not download into the same files.
            with acquire_lock(folder / f".{name}.lock") if download else nullcontext():
                return dataset_class(str(folder), train=train, download=download)
        except URLError as error:
            raise UnreadableData(f"{name} cannot be downloaded to {str(folder)!r}: {error.reason}") from error
        except (RuntimeError, OSError) as error:
            hint = _one_line(error) if download else "set data.download: true or put them there"
            raise UnreadableData(f"{name} files not found (or damaged) under {str(folder)!r}; {hint}") from error
        except (AssertionError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            raise DataError(f"{name} files under {str(folder)!r} are damaged: {_one_line(error)}") from error

    test = opened(train=False)
    return Source(
        channels=channels,
        size=size,
        classes=tuple(test.classes),
        train=lambda: _examples(opened(train=True)),
        test=lambda: _examples(test),
        augment=default_augment(channels),
        statistics=statistics,
    )


def _examples(data: Any) -> Iterator[Example]:
    for i in range(len(data)):
        image, label = data[i]
        array = np.asarray(image)
        yield array.reshape(*array.shape[:2], -1), int(label)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
