"""Every image set of the table passes the conformance suite, on tiny files in its own format."""

import hashlib
import io
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from orchestrator.data import DATA
from orchestrator.testing.data import DataSuite

COUNT, CLASSES = 12, 3
LABELS = [i % CLASSES for i in range(COUNT)]


def pixels(size: int, channels: int) -> np.ndarray:
    shape = (COUNT, size, size) if channels == 1 else (COUNT, size, size, channels)
    return np.random.RandomState(size).randint(0, 256, shape).astype(np.uint8)


def parquet(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    cells = []
    for image in pixels(8, 3):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": cells, "label": LABELS}), folder / f"{split}.parquet")
    return {"path": str(folder)}


def image_folder(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    for split in ("train", "val"):
        for i, (image, label) in enumerate(zip(pixels(10, 3), LABELS, strict=True)):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i}.png")
    return {"path": str(folder), "size": 8}


def idx(name: str) -> Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]:
    def write(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
        raw = folder / name / "raw"
        raw.mkdir(parents=True)
        for split in ("train", "t10k"):
            header = struct.pack(">4i", 2051, COUNT, 28, 28)
            (raw / f"{split}-images-idx3-ubyte").write_bytes(header + pixels(28, 1).tobytes())
            (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, COUNT) + bytes(LABELS))
        return {"path": str(folder)}

    return write


def cifar(kind: str, place: str, key: str) -> Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]:
    def write(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
        """Tiny batches, with their own checksums in the place of the published ones."""
        import torchvision.datasets

        dataset = getattr(torchvision.datasets, kind)
        (folder / place).mkdir()

        def pickled(name: str, content: object) -> str:
            (folder / place / name).write_bytes(pickle.dumps(content))
            return hashlib.md5(pickle.dumps(content)).hexdigest()

        batch = {"data": pixels(32, 3).transpose(0, 3, 1, 2).reshape(COUNT, -1), key: LABELS}
        for part in ("train_list", "test_list"):
            patch.setattr(dataset, part, [[name, pickled(name, batch)] for name, _ in getattr(dataset, part)])
        names = {dataset.meta["key"]: [f"class{i}" for i in range(CLASSES)]}
        patch.setattr(dataset, "meta", {**dataset.meta, "md5": pickled(dataset.meta["filename"], names)})
        return {"path": str(folder)}

    return write


def imagenet(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    ids = {f"n0000000{i}": (f"class{i}",) for i in range(CLASSES)}
    torch.save((ids, list(ids)), folder / "meta.bin")
    for split in ("train", "val"):
        for i, (image, label) in enumerate(zip(pixels(20, 3), LABELS, strict=True)):
            place = folder / split / f"n0000000{label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i}.JPEG")
    return {"path": str(folder), "size": 16}


WRITERS: dict[str, Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]] = {
    "digits": lambda folder, patch: {},
    "parquet": parquet,
    "image_folder": image_folder,
    "mnist": idx("MNIST"),
    "fashion_mnist": idx("FashionMNIST"),
    "cifar10": cifar("CIFAR10", "cifar-10-batches-py", "labels"),
    "cifar100": cifar("CIFAR100", "cifar-100-python", "fine_labels"),
    "imagenet": imagenet,
}


@pytest.mark.parametrize("data_name", DATA.names())
class TestDataSets(DataSuite):
    @pytest.fixture
    def data_params(self, data_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
        files = tmp_path / "files"
        files.mkdir()
        return WRITERS[data_name](files, monkeypatch)
