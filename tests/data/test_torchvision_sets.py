"""torchvision's classes on tiny files in their formats."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.data import DATA
from orchestrator.data.source import DataError, Source, UnreadableData
from orchestrator.data.torchvision_sets import cifar10, cifar100, fashion_mnist, imagenet, mnist

torchvision_datasets = pytest.importorskip("torchvision.datasets")

GREY = np.random.RandomState(0).randint(0, 256, (12, 28, 28)).astype(np.uint8)
COLOUR = np.random.RandomState(1).randint(0, 256, (4, 32, 32, 3)).astype(np.uint8)


def write_idx(folder: Path) -> None:
    folder.mkdir(parents=True)
    labels = bytes(i % 10 for i in range(12))
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 12, 28, 28) + GREY.tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 12) + labels)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files(tmp_path: Path, name: str, folder: str) -> None:
    write_idx(tmp_path / folder / "raw")
    source: Source = DATA.load(name)(path=str(tmp_path))
    assert (source.channels, source.size, len(source.classes), source.augment) == (1, 28, 10, "none")
    assert source.statistics is None
    for split in (source.train, source.test):
        examples = list(split())
        assert [label for _, label in examples] == [i % 10 for i in range(12)]
        np.testing.assert_array_equal(np.stack([image for image, _ in examples])[..., 0], GREY)


def test_files_that_are_there_are_not_downloaded(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    assert len(list(mnist(path=str(tmp_path), download=True).train())) == 12


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "imagenet"])
def test_missing_files_are_named_with_a_remedy(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnreadableData, match=f"{name} .*not found.* under '{tmp_path}'; (set data.download|put its)"):
        DATA.load(name)(path=str(tmp_path))


def test_truncated_idx_files_are_a_data_error(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"mnist .*{tmp_path}"):
        list(mnist(path=str(tmp_path)).train())
    with pytest.raises(DataError):
        fashion_mnist(path=str(tmp_path))


def write_cifar(folder: Path, dataset_class: type, label_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write tiny batches and replace the published checksums by theirs."""
    folder.mkdir(parents=True)

    def pickled(name: str, content: dict[str, object]) -> str:
        encoded = pickle.dumps(content)
        (folder / name).write_bytes(encoded)
        return hashlib.md5(encoded).hexdigest()

    batch = {"data": COLOUR.transpose(0, 3, 1, 2).reshape(4, -1), label_key: [3, 1, 2, 0]}
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(
            dataset_class, part, [[name, pickled(name, batch)] for name, _ in getattr(dataset_class, part)]
        )
    meta = dict(dataset_class.meta)  # type: ignore[attr-defined]
    meta["md5"] = pickled(meta["filename"], {meta["key"]: ["ant", "bee", "cat", "dog"]})
    monkeypatch.setattr(dataset_class, "meta", meta)


def test_cifar10_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py", torchvision_datasets.CIFAR10, "labels", monkeypatch)
    source = cifar10(path=str(tmp_path))
    assert (source.channels, source.size, source.augment) == (3, 32, "crop_flip")
    assert source.classes == ("ant", "bee", "cat", "dog")
    assert source.statistics == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert len(list(source.train())) == 20  # five batches
    examples = list(source.test())
    assert [label for _, label in examples] == [3, 1, 2, 0]
    np.testing.assert_array_equal(np.stack([image for image, _ in examples]), COLOUR)


def test_cifar100_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "cifar-100-python", torchvision_datasets.CIFAR100, "fine_labels", monkeypatch)
    source = cifar100(path=str(tmp_path))
    assert [label for _, label in source.train()] == [3, 1, 2, 0]
    assert source.statistics is None


def test_a_changed_cifar_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py", torchvision_datasets.CIFAR10, "labels", monkeypatch)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(UnreadableData, match="damaged"):
        cifar10(path=str(tmp_path))


def test_imagenet_as_torchvision_unpacks_it(tmp_path: Path) -> None:
    ids = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish",)}
    torch.save((ids, list(ids)), tmp_path / "meta.bin")
    for split in ("train", "val"):
        for name in ids:
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(np.repeat(COLOUR[0], 2, axis=1)).save(tmp_path / split / name / "0.JPEG")
    source = imagenet(path=str(tmp_path), size=16)
    assert (source.classes, source.size) == (("tench", "goldfish"), 16)
    assert [(image.shape, label) for image, label in source.train()] == [((16, 16, 3), 0), ((16, 16, 3), 1)]
    assert len(list(source.test())) == 2
