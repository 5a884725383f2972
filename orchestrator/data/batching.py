"""Opened image sets and their batches: shuffled, cropped, flipped and normalised by whole-batch tensor operations."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from orchestrator.data.source import Augment
from orchestrator.data.split import stratified_split

PADDING = 4
"""Black pixels added on every side of an image before a crop of its own size is taken."""

_PREFETCH = 4
"""Batches of a streamed split that are read ahead."""


@dataclass(frozen=True)
class Split:
    """Images (uint8, N x C x H x W, channels_last) and labels (int64, N).

    In memory, both are on the device and ``rows`` is `None`. The ``images`` of a streamed split are the whole memory
    map, on the CPU; ``rows`` (int64, on the CPU) are the indices of its images, in the order of ``labels``.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageData:
    """An opened image set; ``mean`` and ``std`` are per channel over all training images, in units of 0..1."""

    train: Split
    val: Split
    test: Split
    channels: int
    size: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment

    @property
    def class_count(self) -> int:
        return len(self.classes)


def batches(
    split: Split,
    batch_size: int,
    *,
    data: ImageData,
    generator: torch.Generator | None,
    augment: bool,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over one epoch of normalised inputs (float32, B x C x H x W, channels_last) and labels (int64, B).

    Both are on the device. A ``generator`` shuffles the images (it is on the CPU, so that the order is the same on
    every device); all random numbers are drawn from it here, before the first batch. Without one the images come in
    order. ``augment`` applies ``data.augment`` and needs the generator.
    """
    augment = augment and data.augment != "none"
    if augment and generator is None:
        raise ValueError("augment=True needs a generator")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    n = len(split)
    order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
    offsets = flips = None
    if augment:
        offsets = torch.randint(0, 2 * PADDING + 1, (n, 2), generator=generator)
        if data.augment == "crop_flip":
            flips = torch.randint(0, 2, (n,), generator=generator, dtype=torch.bool)
    stop = n - n % batch_size if drop_last else n
    return _batches(split, data, order[:stop], batch_size, offsets, flips)


def hold_out(data: ImageData, share: float) -> tuple[ImageData, Split]:
    """Return the set without a stratified ``share`` of its training images, and those images.

    The held-out images are the same every time.
    """
    if share == 0:
        return data, Split(data.train.images[:0], data.train.labels[:0], None)
    kept, held = (torch.from_numpy(index) for index in stratified_split(data.train.labels.cpu().numpy(), share, seed=1))
    return replace(data, train=_subset(data.train, kept)), _subset(data.train, held)


def _subset(split: Split, index: Tensor) -> Split:
    labels = split.labels[index.to(split.labels.device)]
    if split.rows is not None:
        return Split(split.images, labels, split.rows[index])
    images = split.images[index.to(split.images.device)]
    return Split(images.contiguous(memory_format=torch.channels_last), labels)


def calibration_batches(data: ImageData, count: int, batch_size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of ``count`` training images, class-balanced as far as possible, without augmentation.

    All images are taken where there are fewer. The sample and its order depend on ``seed`` alone.
    """
    labels = data.train.labels.cpu()
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    # The k-th image of each class comes before the k+1-st of any class; ties are in shuffled order.
    rank_in_class = torch.empty_like(shuffled)
    for label in range(data.class_count):
        of_class = (labels[shuffled] == label).nonzero().flatten()
        rank_in_class[of_class] = torch.arange(len(of_class))
    sample = shuffled[torch.argsort(rank_in_class, stable=True)[:count]]
    sample = sample[torch.randperm(len(sample), generator=generator)]
    return list(_batches(data.train, data, sample, batch_size, None, None))


def crop_flip(images: Tensor, offsets: Tensor, flips: Tensor | None) -> Tensor:
    """Return crops of the original size from the images padded with `PADDING` zeros, mirrored where ``flips``.

    ``images`` B x H x W x C (contiguous); ``offsets`` B x 2: top and left of the crop in the padded image, from 0 to
    2 * `PADDING`; ``flips`` B, bool. Equals torchvision's ``RandomCrop(padding=4)`` followed by a horizontal flip.
    """
    count, height, width, channels = images.shape
    padded = torch.nn.functional.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))
    row = (width + 2 * PADDING) * channels
    steps = 2 * PADDING + 1
    # All possible crops as a view: a row of a crop is contiguous, so that indexing copies whole rows.
    views = padded.as_strided(
        (count, steps, steps, height, width * channels),
        ((height + 2 * PADDING) * row, row, channels, row, 1),
    )
    index = torch.arange(count, device=images.device)
    crops = views[index, offsets[:, 0], offsets[:, 1]].view(count, height, width, channels)
    if flips is None:
        return crops
    return torch.where(flips.view(-1, 1, 1, 1), crops.flip(2), crops)


def _batches(
    split: Split, data: ImageData, order: Tensor, batch_size: int, offsets: Tensor | None, flips: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    device = split.labels.device
    scale, shift = _normalisation(data, device)
    on_device = _to_device(order, device)
    offsets = None if offsets is None else _to_device(offsets, device)
    flips = None if flips is None else _to_device(flips, device)
    slices = [slice(start, start + batch_size) for start in range(0, len(order), batch_size)]
    for batch, raw in zip(slices, _gather(split, order, on_device, slices), strict=True):
        images = raw
        if offsets is not None:
            images = crop_flip(images, offsets[batch], None if flips is None else flips[batch])
        count, height, width, channels = images.shape
        # Normalise whole rows: an inner dimension of 3 would leave the processor's vector units idle.
        inputs = images.view(count, height, width * channels).to(torch.float32).mul_(scale).add_(shift)
        yield (
            inputs.view(count, height, width, channels).permute(0, 3, 1, 2),
            split.labels.index_select(0, on_device[batch]),
        )


def _gather(split: Split, order: Tensor, on_device: Tensor, slices: Sequence[slice]) -> Iterator[Tensor]:
    """Iterate over the images of each slice of ``order``, B x H x W x C, on the device; a thread prefetches streams."""
    images = split.images.permute(0, 2, 3, 1)
    if split.rows is None:
        for batch in slices:
            yield images.index_select(0, on_device[batch])
        return
    device = split.labels.device
    rows = split.rows[order]

    def read(batch: slice) -> Tensor:
        raw = images.index_select(0, rows[batch])
        return raw.pin_memory() if device.type == "cuda" else raw

    pool = ThreadPoolExecutor(1, thread_name_prefix="images")
    try:
        pending: deque[Future[Tensor]] = deque(pool.submit(read, batch) for batch in slices[:_PREFETCH])
        for next_slice in [*slices[_PREFETCH:], *[None] * min(_PREFETCH, len(slices))]:
            raw = pending.popleft().result()
            if next_slice is not None:
                pending.append(pool.submit(read, next_slice))
            yield raw.to(device, non_blocking=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _normalisation(data: ImageData, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return scale and shift of one row of interleaved channels: (raw / 255 - mean) / std = raw * scale + shift."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (data.mean, data.std))
    scale, shift = 1 / (255 * std), -mean / std
    return tuple(_to_device(values.to(torch.float32).repeat(data.size), device) for values in (scale, shift))  # type: ignore[return-value]


def _to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to the device without synchronising with it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
