"""An opened image set, and its batches: shuffled, cropped, mirrored and normalised by whole-batch tensor operations."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from orchestrator.data.source import Augment
from orchestrator.data.split import stratified

PADDING = 4
"""Pixels of black around an image before a crop of its own size is taken from it."""

_AHEAD = 4


@dataclass(frozen=True)
class Split:
    """Images (uint8, N x C x H x W, channels_last) and labels (int64, N).

    In memory, both are on the device and ``rows`` is `None`. A streamed split's ``images`` are the whole memory map, on
    the CPU, and ``rows`` (int64, on the CPU) says which of them are this split's, in the order of ``labels``.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageData:
    """An opened image set. ``mean`` and ``std`` are of the channels over all training images, in units of 0..1."""

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
    """One epoch of normalised inputs (float32, B x C x H x W, channels_last) and labels (int64, B) on the device.

    With a ``generator`` (on the CPU: the order is then the same on every device) the images come shuffled; everything
    random is drawn from it here, before the first batch. Without, they come in order. ``augment`` applies
    ``data.augment`` and needs the generator.
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


def divided(data: ImageData, share: float) -> tuple[ImageData, Split]:
    """The set with a share of its training images held out, and those images; the same ones every time.

    Classes keep their shares. A share of 0 holds nothing out.
    """
    if share == 0:
        return data, Split(data.train.images[:0], data.train.labels[:0], None)
    kept, held = (torch.from_numpy(index) for index in stratified(data.train.labels.cpu().numpy(), share, seed=1))
    return replace(data, train=_part(data.train, kept)), _part(data.train, held)


def _part(split: Split, index: Tensor) -> Split:
    labels = split.labels[index.to(split.labels.device)]
    if split.rows is not None:
        return Split(split.images, labels, split.rows[index])
    images = split.images[index.to(split.images.device)]
    return Split(images.contiguous(memory_format=torch.channels_last), labels)


def calibration(data: ImageData, count: int, batch_size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """``count`` training images (all, if there are fewer), as equal in number per class as can be, not augmented.

    The sample and its order follow from ``seed`` alone.
    """
    labels = data.train.labels.cpu()
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    # The k-th image of each class comes before any class's k+1-st; ties are in shuffled order.
    seen = torch.empty_like(shuffled)
    for label in range(data.class_count):
        of_class = (labels[shuffled] == label).nonzero().flatten()
        seen[of_class] = torch.arange(len(of_class))
    chosen = shuffled[torch.argsort(seen, stable=True)[:count]]
    chosen = chosen[torch.randperm(len(chosen), generator=generator)]
    return list(_batches(data.train, data, chosen, batch_size, None, None))


def crop_flip(images: Tensor, offsets: Tensor, flips: Tensor | None) -> Tensor:
    """Crops of the images' own size from the images padded with `PADDING` zeros, then mirrored where ``flips``.

    ``images`` B x H x W x C (contiguous); ``offsets`` B x 2: the crop's top and left in the padded image, from 0 to
    2 * `PADDING`; ``flips`` B, bool. Equal to torchvision's ``RandomCrop(padding=4)`` and a horizontal flip.
    """
    count, height, width, channels = images.shape
    padded = torch.nn.functional.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))
    row = (width + 2 * PADDING) * channels
    steps = 2 * PADDING + 1
    # Every possible crop as a view; a row of a crop is one run of bytes, so picking crops is a copy of runs.
    views = padded.as_strided(
        (count, steps, steps, height, width * channels),
        ((height + 2 * PADDING) * row, row, channels, row, 1),
    )
    which = torch.arange(count, device=images.device)
    crops = views[which, offsets[:, 0], offsets[:, 1]].view(count, height, width, channels)
    if flips is None:
        return crops
    return torch.where(flips.view(-1, 1, 1, 1), crops.flip(2), crops)


def _batches(
    split: Split, data: ImageData, order: Tensor, batch_size: int, offsets: Tensor | None, flips: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    device = split.labels.device
    scale, shift = _normalisation(data, device)
    on_device = _moved(order, device)
    offsets = None if offsets is None else _moved(offsets, device)
    flips = None if flips is None else _moved(flips, device)
    pieces = [slice(start, start + batch_size) for start in range(0, len(order), batch_size)]
    for piece, raw in zip(pieces, _gathered(split, order, on_device, pieces), strict=True):
        images = raw
        if offsets is not None:
            images = crop_flip(images, offsets[piece], None if flips is None else flips[piece])
        count, height, width, channels = images.shape
        # Whole rows at a time: an inner dimension of 3 would leave the processor's vector units idle.
        inputs = images.view(count, height, width * channels).to(torch.float32).mul_(scale).add_(shift)
        yield (
            inputs.view(count, height, width, channels).permute(0, 3, 1, 2),
            split.labels.index_select(0, on_device[piece]),
        )


def _gathered(split: Split, order: Tensor, on_device: Tensor, pieces: Sequence[slice]) -> Iterator[Tensor]:
    """The images of each piece, B x H x W x C, on the device; streamed ones are read ahead by a thread."""
    images = split.images.permute(0, 2, 3, 1)
    if split.rows is None:
        for piece in pieces:
            yield images.index_select(0, on_device[piece])
        return
    device = split.labels.device
    rows = split.rows[order]

    def read(piece: slice) -> Tensor:
        raw = images.index_select(0, rows[piece])
        return raw.pin_memory() if device.type == "cuda" else raw

    pool = ThreadPoolExecutor(1, thread_name_prefix="images")
    try:
        waiting: deque[Future[Tensor]] = deque(pool.submit(read, piece) for piece in pieces[:_AHEAD])
        for following in [*pieces[_AHEAD:], *[None] * min(_AHEAD, len(pieces))]:
            raw = waiting.popleft().result()
            if following is not None:
                waiting.append(pool.submit(read, following))
            yield raw.to(device, non_blocking=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _normalisation(data: ImageData, device: torch.device) -> tuple[Tensor, Tensor]:
    """``scale`` and ``shift`` of one row of interleaved channels: (raw / 255 - mean) / std = raw * scale + shift."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (data.mean, data.std))
    scale, shift = 1 / (255 * std), -mean / std
    return tuple(_moved(values.to(torch.float32).repeat(data.size), device) for values in (scale, shift))  # type: ignore[return-value]


def _moved(values: Tensor, device: torch.device) -> Tensor:
    """On the device without waiting for it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
