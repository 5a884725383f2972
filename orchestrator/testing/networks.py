"""Tiny networks and images: pruned in milliseconds, with the connections that are difficult to prune."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.data.images import ImageData, Split

CLASSES, CHANNELS, SIZE = 4, 3, 8


class Chain(nn.Module):
    """Convolutions with batch-norm, then flattened into a linear layer with a hidden one behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, 12, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, padding=1)
        self.fc1 = nn.Linear(16 * 4, 20)
        self.fc2 = nn.Linear(20, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        images = F.max_pool2d(F.relu(self.norm1(self.conv1(images))), 2)
        images = F.max_pool2d(F.relu(self.conv2(images)), 2)
        hidden: Tensor = self.fc2(F.relu(self.fc1(images.flatten(1))))
        return hidden


class Residual(nn.Module):
    """A block whose output is added to its input: both lose the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(CHANNELS, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.conv1 = nn.Conv2d(16, 12, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        images = F.relu(self.norm(self.stem(images)))
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(images)))))
        logits: Tensor = self.fc(F.relu(images + inner).mean((2, 3)))
        return logits


class Concatenating(nn.Module):
    """Two concatenated branches: the next layer's input channels come from both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(CHANNELS, 12, 3, padding=1)
        self.left = nn.Conv2d(12, 10, 1)
        self.right = nn.Conv2d(12, 14, 3, padding=1)
        self.norm = nn.BatchNorm2d(24)
        self.reader = nn.Conv2d(24, 16, 3, padding=1)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        images = F.relu(self.stem(images))
        both = F.relu(self.norm(torch.cat([self.left(images), self.right(images)], 1)))
        logits: Tensor = self.fc(F.relu(self.reader(both)).mean((2, 3)))
        return logits


class Depthwise(nn.Module):
    """An inverted residual: expansion and depthwise convolution share their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(CHANNELS, 10, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(10)
        self.expand = nn.Conv2d(10, 24, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(24)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False)
        self.norm2 = nn.BatchNorm2d(24)
        self.project = nn.Conv2d(24, 10, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(10)
        self.fc = nn.Linear(10, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        images = F.relu6(self.norm(self.stem(images)))
        inner = F.relu6(self.norm2(self.depthwise(F.relu6(self.norm1(self.expand(images))))))
        logits: Tensor = self.fc((images + self.norm3(self.project(inner))).mean((2, 3)))
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "chain": Chain,
    "residual": Residual,
    "concatenating": Concatenating,
    "depthwise": Depthwise,
}


def network(kind: str, seed: int = 0) -> nn.Module:
    """Return a network of `NETWORKS` with random norm statistics and scales."""
    torch.manual_seed(seed)
    return randomize_norms(NETWORKS[kind]())


def randomize_norms(model: nn.Module) -> nn.Module:
    """Give batch-norms random statistics and scales, as after training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.running_mean = torch.randn_like(module.bias) * 0.1
            module.running_var = torch.rand_like(module.bias) + 0.5
    return model


def images(count: int = 96, seed: int = 0) -> ImageData:
    """Return images with separable classes: each has a bright quarter of its own."""
    generator = torch.Generator().manual_seed(seed)

    def split(n: int) -> Split:
        labels = torch.arange(n) % CLASSES
        pixels = torch.randint(0, 120, (n, CHANNELS, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        half = SIZE // 2
        for i, label in enumerate(labels.tolist()):
            top, left = half * (label // 2), half * (label % 2)
            pixels[i, :, top : top + half, left : left + half] += 100
        return Split(pixels.contiguous(memory_format=torch.channels_last), labels)

    names = tuple(str(i) for i in range(CLASSES))
    centre, spread = (0.33,) * CHANNELS, (0.2,) * CHANNELS
    return ImageData(split(count), split(count // 2), split(count // 2), CHANNELS, SIZE, names, centre, spread, "none")
