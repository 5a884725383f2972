"""Batches of opened sets: augmentation, normalisation, order, streaming, calibration."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.data.batching import PADDING, crop_flip
from orchestrator.data.images import ImageData, Split, batches, calibration_batches, hold_out, open_data

torch.set_num_threads(1)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def colourful(device: str = "cpu", count: int = 50, size: int = 8) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    split = Split(images.to(device).permute(0, 3, 1, 2), (torch.arange(count) % 5).to(device))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    return ImageData(split, split, split, 3, size, tuple("abcde"), mean, std, "crop_flip")


def streamed(data: ImageData) -> ImageData:
    """Return the same images as a streamed set: in another order in the map, addressed by ``rows``."""
    count = len(data.train)
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(9))
    mapped = torch.empty_like(data.train.images, device="cpu")
    mapped[rows] = data.train.images.cpu()
    split = Split(mapped, data.train.labels, rows)
    return ImageData(split, split, split, 3, data.size, data.classes, data.mean, data.std, data.augment)


def digits_data(folder: Path, **options: object) -> ImageData:
    return open_data("digits", {}, device=torch.device("cpu"), folder=folder, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("height", "channels"), [(8, 3), (5, 1)])
def test_crop_and_flip_equal_a_loop_over_images(device: str, height: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(1, 256, (90, height, height + 2, channels), dtype=torch.uint8, generator=generator)
    offsets = torch.randint(0, 2 * PADDING + 1, (90, 2), generator=generator)
    offsets[:4] = torch.tensor([[0, 0], [0, 8], [8, 0], [8, 8]])
    flips = torch.rand(90, generator=generator) < 0.5
    flipped = crop_flip(images.to(device), offsets.to(device), flips.to(device)).cpu().numpy()
    unflipped = crop_flip(images.to(device), offsets.to(device), None).cpu().numpy()
    for i in range(90):
        padded = np.pad(images[i].numpy(), ((4, 4), (4, 4), (0, 0)))
        top, left = offsets[i].tolist()
        crop = padded[top : top + height, left : left + height + 2]
        np.testing.assert_array_equal(unflipped[i], crop)
        np.testing.assert_array_equal(flipped[i], crop[:, ::-1] if flips[i] else crop)


@pytest.mark.parametrize("device", DEVICES)
def test_batches_are_normalised_channels_last_and_in_order(device: str) -> None:
    data = colourful(device)
    epoch = list(batches(data.train, 16, data=data, generator=None, augment=False))
    assert [len(labels) for _, labels in epoch] == [16, 16, 16, 2]
    for inputs, _ in epoch:
        assert inputs.dtype == torch.float32
        assert inputs.is_contiguous(memory_format=torch.channels_last)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (data.mean, data.std))
    expected = (data.train.images.float() / 255 - mean) / std
    torch.testing.assert_close(torch.cat([inputs for inputs, _ in epoch]), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.cat([labels for _, labels in epoch]), data.train.labels)


def test_the_training_images_have_mean_0_and_deviation_1(tmp_path: Path) -> None:
    data = digits_data(tmp_path, val_share=0)
    inputs = torch.cat([x for x, _ in batches(data.train, 256, data=data, generator=None, augment=False)])
    assert abs(inputs.mean().item()) < 1e-5
    assert abs(inputs.std(correction=0).item() - 1) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [colourful, lambda device: streamed(colourful(device))])
def test_the_generator_decides_everything(device: str, make: object) -> None:
    data = make(device)  # type: ignore[operator]

    def epoch(seed: int, augment: bool = True) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [t for pair in batches(data.train, 8, data=data, generator=generator, augment=augment) for t in pair]

    assert all(torch.equal(a, b) for a, b in zip(epoch(1), epoch(1), strict=True))
    assert not torch.equal(torch.cat(epoch(1)[1::2]), torch.cat(epoch(2)[1::2]))
    # The order does not depend on augmentation, and each image occurs once.
    assert torch.equal(torch.cat(epoch(1)[1::2]), torch.cat(epoch(1, augment=False)[1::2]))
    distinct = {
        bytes(x.cpu().contiguous().numpy().tobytes()) for inputs in epoch(1, augment=False)[::2] for x in inputs
    }
    assert len(distinct) == len(data.train)


def test_random_numbers_are_drawn_when_batches_is_called() -> None:
    data = colourful()
    generator = torch.Generator().manual_seed(0)
    first = batches(data.train, 8, data=data, generator=generator, augment=True)
    second = batches(data.train, 8, data=data, generator=generator, augment=True)
    later = [labels for _, labels in second], [labels for _, labels in first]
    generator.manual_seed(0)
    expected = [
        [labels for _, labels in batches(data.train, 8, data=data, generator=generator, augment=True)] for _ in range(2)
    ]
    assert torch.equal(torch.cat(later[1]), torch.cat(expected[0]))
    assert torch.equal(torch.cat(later[0]), torch.cat(expected[1]))


def test_every_crop_and_mirror_image_comes_up() -> None:
    data = colourful(count=2000, size=3)
    data = ImageData(**{**vars(data), "augment": "crop"})
    generator = torch.Generator().manual_seed(0)
    inputs = torch.cat([x for x, _ in batches(data.train, 500, data=data, generator=generator, augment=True)])
    black = -torch.tensor(data.mean).view(1, 3, 1, 1) / torch.tensor(data.std).view(1, 3, 1, 1)
    whole = ((inputs - black).abs() > 1e-6).any(dim=1)
    # Of the 81 crops of a 3x3 image padded by 4, 5 x 5 contain some of it and one all of it.
    assert abs(whole.flatten(1).any(dim=1).float().mean().item() - 25 / 81) < 0.04
    assert abs(whole.flatten(1).all(dim=1).float().mean().item() - 1 / 81) < 0.01


def test_the_last_batch_can_be_dropped_and_wrong_calls_are_refused() -> None:
    data = colourful()
    assert [len(y) for _, y in batches(data.train, 16, data=data, generator=None, augment=False, drop_last=True)] == [
        16,
        16,
        16,
    ]
    with pytest.raises(ValueError, match="needs a generator"):
        batches(data.train, 16, data=data, generator=None, augment=True)
    with pytest.raises(ValueError, match="not 0"):
        batches(data.train, 0, data=data, generator=None, augment=False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch_size", [1, 7, 16, 50, 64])
def test_streamed_batches_equal_those_in_memory(device: str, batch_size: int) -> None:
    data = colourful(device)
    kept, mapped = (
        list(
            batches(
                d.train, batch_size, data=d, generator=torch.Generator().manual_seed(3), augment=True, drop_last=False
            )
        )
        for d in (data, streamed(data))
    )
    assert len(kept) == len(mapped)
    for (a, y), (b, z) in zip(kept, mapped, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(y, z)


def test_an_abandoned_stream_leaves_no_thread() -> None:
    data = streamed(colourful(count=400))
    epoch = batches(data.train, 4, data=data, generator=None, augment=False)
    next(epoch)
    del epoch
    gc.collect()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(t.name.startswith("images") for t in threading.enumerate()):
        time.sleep(0.01)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("images")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", [colourful, lambda device: streamed(colourful(device))])
def test_batching_never_waits_for_the_gpu(make: object) -> None:
    data = make("cuda")  # type: ignore[operator]
    torch.cuda.set_sync_debug_mode("error")
    try:
        generator = torch.Generator().manual_seed(0)
        list(batches(data.train, 8, data=data, generator=generator, augment=True))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_open_data_splits_streams_and_keeps_the_last_set(tmp_path: Path) -> None:
    data = digits_data(tmp_path)
    assert (data.channels, data.size, data.class_count, data.augment) == (1, 8, 10, "none")
    assert (len(data.train), len(data.val), len(data.test)) == (1294, 144, 359)
    assert data.train.images.shape == (1294, 1, 8, 8)
    assert data.train.labels.dtype == torch.int64
    assert digits_data(tmp_path) is data
    stream = digits_data(tmp_path, memory_limit=1000)
    assert stream.train.rows is not None
    assert stream is not data
    for split in ("train", "val", "test"):
        pair = (
            list(batches(getattr(d, split), 50, data=d, generator=torch.Generator().manual_seed(1), augment=True))
            for d in (data, stream)
        )
        for (a, y), (b, z) in zip(*pair, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(y, z)


def test_the_default_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNESWEEP_DATA_CACHE", str(tmp_path / "decoded"))
    open_data("digits", {"size": 9}, device=torch.device("cpu"))
    assert [p.suffix for p in sorted((tmp_path / "decoded").iterdir())] == ["", ".lock"]


@pytest.mark.parametrize("count", [10, 24, 50, 80])
def test_calibration_is_balanced_and_repeatable(count: int) -> None:
    data = colourful()
    sample = calibration_batches(data, count, 8, seed=3)
    labels = torch.cat([y for _, y in sample])
    assert len(labels) == min(count, 50)
    numbers = torch.bincount(labels, minlength=5)
    assert numbers.max() - numbers.min() <= 1
    assert all(
        torch.equal(a, b) for (a, _), (b, _) in zip(sample, calibration_batches(data, count, 8, seed=3), strict=True)
    )
    streaming = calibration_batches(streamed(data), count, 8, seed=3)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(sample, streaming, strict=True))
    inputs = torch.cat([x for x, _ in sample])
    plain = torch.cat([x for x, _ in batches(data.train, 50, data=data, generator=None, augment=False)])
    distances = torch.cdist(inputs.flatten(1), plain.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.min(dim=1)
    assert nearest.values.max() == 0
    assert len(set(nearest.indices.tolist())) == len(labels)


def test_calibration_tops_up_from_larger_classes() -> None:
    data = colourful(count=40)
    labels = torch.tensor([0] * 37 + [1] * 2 + [2])
    split = Split(data.train.images, labels)
    data = ImageData(**{**vars(data), "train": split, "classes": ("a", "b", "c")})
    sampled = torch.cat([y for _, y in calibration_batches(data, 20, 8, seed=0)])
    assert torch.bincount(sampled).tolist() == [17, 2, 1]


@pytest.mark.parametrize("streamed", [False, True])
def test_images_held_out_are_not_trained_on(tmp_path: Path, streamed: bool) -> None:
    limit = 0 if streamed else 8 << 30
    data = open_data("digits", {}, device=torch.device("cpu"), folder=tmp_path, memory_limit=limit)
    rest, held = hold_out(data, 0.1)
    assert len(held) == round(0.1 * len(data.train))
    assert len(rest.train) + len(held) == len(data.train)
    assert torch.bincount(held.labels, minlength=10).min() > 0

    def images(split: Split) -> set[bytes]:
        return {x.numpy().tobytes() for b, _ in batches(split, 64, data=data, generator=None, augment=False) for x in b}

    whole = images(data.train)
    assert images(rest.train) | images(held) == whole
    assert len(images(rest.train) & images(held)) <= len(data.train) - len(whole)  # some digits are identical
    again, _ = hold_out(data, 0.1)
    assert torch.equal(again.train.labels, rest.train.labels)
    unchanged, nothing = hold_out(data, 0)
    assert unchanged is data
    assert len(nothing) == 0
