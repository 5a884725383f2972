"""The cache of decoded images: memory-mapped views, concurrent processes, crashes and damage."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import orchestrator.data
from orchestrator.data.cache import open_cached
from orchestrator.data.digits import digits
from orchestrator.data.source import CorruptImage, DataError, Example, Source

IMAGES = np.random.RandomState(0).randint(0, 256, (30, 5, 5, 3)).astype(np.uint8)


def source(log: list[str] | None = None, label: int = 0) -> Source:
    def train() -> Iterator[Example]:
        if log is not None:
            log.append("train")
        yield from ((image, i % 3) for i, image in enumerate(IMAGES))

    return Source(3, 5, ("a", "b", "c"), train, lambda: iter([(IMAGES[0], 2), (IMAGES[1], label)]), "none")


def test_the_views_hold_what_was_decoded_without_a_copy(tmp_path: Path) -> None:
    decoded = open_cached(source(), "key", tmp_path)
    np.testing.assert_array_equal(decoded.train_images, IMAGES)
    np.testing.assert_array_equal(decoded.train_labels, np.arange(30) % 3)
    np.testing.assert_array_equal(decoded.test_labels, [2, 0])
    assert decoded.train_images.dtype == np.uint8
    assert decoded.train_labels.dtype == np.int64
    for view in (decoded.train_images, decoded.train_labels):
        assert not view.flags.writeable
        assert not view.flags.owndata
    np.testing.assert_allclose(decoded.mean, (IMAGES / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(decoded.std, (IMAGES / 255).std(axis=(0, 1, 2)), rtol=1e-12)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v1-key", "v1-key.lock"]
    assert sorted(p.name for p in (tmp_path / "v1-key").iterdir()) == ["metadata.json", "test.arrow", "train.arrow"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc/self/maps")
def test_the_views_lie_in_the_mapped_file(tmp_path: Path) -> None:
    decoded = open_cached(source(), "key", tmp_path)
    address = decoded.train_images.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if first <= address < last:
            assert line.endswith("train.arrow")
            return
    pytest.fail("the view is in no mapping")


def test_published_statistics_take_precedence(tmp_path: Path) -> None:
    open_cached(source(), "key", tmp_path)
    published = dataclasses.replace(source(), statistics=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    decoded = open_cached(published, "key", tmp_path)
    assert (decoded.mean, decoded.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_second_use_decodes_nothing(tmp_path: Path) -> None:
    log: list[str] = []
    open_cached(source(log), "key", tmp_path)
    open_cached(source(log), "key", tmp_path)
    assert log == ["train"]
    open_cached(source(log), "other", tmp_path)
    assert log == ["train", "train"]


@pytest.mark.parametrize("damage", ["short", "missing", "metadata", "garbage"])
def test_damaged_folders_are_built_again(tmp_path: Path, damage: str) -> None:
    open_cached(source(), "key", tmp_path)
    file = tmp_path / "v1-key" / "train.arrow"
    match damage:
        case "short":
            file.write_bytes(file.read_bytes()[:-1])
        case "missing":
            file.unlink()
        case "metadata":
            metadata = tmp_path / "v1-key" / "metadata.json"
            metadata.write_text(metadata.read_text()[:20])
        case "garbage":
            file.write_bytes(b"\0" * file.stat().st_size)
    log: list[str] = []
    np.testing.assert_array_equal(open_cached(source(log), "key", tmp_path).train_images, IMAGES)
    assert log == ["train"]


def test_a_failing_source_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken() -> Iterator[Example]:
        yield IMAGES[0], 0
        raise CorruptImage(Path("train.parquet"), "cannot identify image file", 1)

    with pytest.raises(CorruptImage, match=r"train\.parquet row 1"):
        open_cached(dataclasses.replace(source(), train=broken), "key", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["v1-key.lock"]
    assert len(open_cached(source(), "key", tmp_path).train_labels) == 30


def test_labels_shapes_and_emptiness_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="label 3 of test image 1 is not one of 3 classes"):
        open_cached(source(label=3), "key", tmp_path)
    with pytest.raises(DataError, match=r"train image 0 is uint8 \(5, 5, 3\), not uint8 \(6, 6, 3\)"):
        open_cached(dataclasses.replace(source(), size=6), "key", tmp_path)
    with pytest.raises(DataError, match="no test images"):
        open_cached(dataclasses.replace(source(), test=lambda: iter(())), "key", tmp_path)


CHILD = """
import os, sys, time
from pathlib import Path
import numpy as np
from orchestrator.data.cache import open_cached
from orchestrator.data.source import Source

folder, behaviour = Path(sys.argv[1]), sys.argv[2]

def train():
    with open(folder / "log", "a") as log:
        log.write(f"{os.getpid()}\\n")
    for i in range(50):
        time.sleep(0.02)
        yield np.full((4, 4, 1), i, dtype=np.uint8), 0
        if behaviour == "hang" and i == 20:
            print("decoding", flush=True)
            time.sleep(60)

test = lambda: iter([(np.zeros((4, 4, 1), dtype=np.uint8), 0)])
decoded = open_cached(Source(1, 4, ("a",), train, test, "none"), "key", folder)
print(int(decoded.train_images.sum()))
"""


def child(folder: Path, behaviour: str) -> subprocess.Popen[str]:
    root = str(Path(orchestrator.data.__file__).parents[2])
    command = [sys.executable, "-c", CHILD, str(folder), behaviour]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root})


def test_of_four_processes_one_decodes(tmp_path: Path) -> None:
    children = [child(tmp_path, "finish") for _ in range(4)]
    printed = [process.communicate(timeout=60)[0].strip() for process in children]
    assert [process.returncode for process in children] == [0] * 4
    assert printed == [str(16 * sum(range(50)))] * 4
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    victim = child(tmp_path, "hang")
    assert victim.stdout is not None
    assert victim.stdout.readline().strip() == "decoding"
    waiting = child(tmp_path, "finish")
    victim.send_signal(signal.SIGKILL)
    victim.wait(timeout=10)
    victim.stdout.close()
    assert waiting.communicate(timeout=60)[0].strip() == str(16 * sum(range(50)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "v1-key", "v1-key.lock"]


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    decoded = open_cached(digits(), "digits", tmp_path)
    assert decoded.train_images.shape[1:] == (8, 8, 1)
    assert len(decoded.train_labels) + len(decoded.test_labels) == 1797
    assert len(decoded.test_labels) == 359
    assert (decoded.train_images.min(), decoded.train_images.max()) == (0, 255)
    again = list(digits().train())
    np.testing.assert_array_equal([label for _, label in again], decoded.train_labels)
    larger = digits(size=28)
    assert next(larger.test())[0].shape == (28, 28, 1)
    with pytest.raises(DataError, match="at least 8, not 5"):
        digits(size=5)
    assert json.loads((tmp_path / "v1-digits" / "metadata.json").read_text())["test"]["shape"] == [359, 8, 8, 1]
