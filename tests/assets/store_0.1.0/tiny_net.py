"""The user's own networks of the store of 0.1.0: one so small that the store is, and one that cannot be trained."""

from torch import Tensor, nn


def tiny(num_classes: int, in_channels: int) -> nn.Module:
    """Two convolutions with batch normalisation, of 8 and 16 filters, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    )


class Brittle(nn.Linear):
    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("no gradient comes through here")
        return super().forward(images.flatten(1))


def brittle(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    return Brittle(in_channels * image_size**2, num_classes)
