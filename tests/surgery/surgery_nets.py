"""Networks of every connection that surgery has to follow, small enough to test each thoroughly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from orchestrator.surgery.costs import Costs
from orchestrator.surgery.groups import ChannelGroup, channel_groups

torch.set_num_threads(1)


def conv_bn(channels: int, filters: int, **options: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3, padding=1, bias=False, **options), nn.BatchNorm2d(filters), nn.ReLU()
    )


class Chain(nn.Module):
    """Convolution to convolution to flattened linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv_bn(3, 12), nn.Conv2d(12, 10, 3)
        self.hidden, self.classifier = nn.Linear(10 * 9, 14), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.second(self.first(x))), 2)
        return self.classifier(F.relu(self.hidden(x.flatten(1))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv_bn(3, 10), conv_bn(10, 12), nn.Conv2d(12, 10, 3, padding=1)
        self.down, self.classifier = nn.Conv2d(10, 16, 1, stride=2), nn.Linear(16, 5)
        self.c = nn.Conv2d(10, 16, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.b(self.a(x)))
        x = F.relu(self.down(x) + self.c(x))
        return self.classifier(x.mean((2, 3)))


class PaddedShortcut(nn.Module):
    """The parameter-free shortcut of ResNets for CIFAR: every other pixel, new channels filled with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv_bn(3, 8), conv_bn(8, 8), nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.classifier = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.classifier(F.adaptive_avg_pool2d(F.relu(shortcut + self.b(self.a(x))), 1).flatten(1))


class Concatenating(nn.Module):
    """Dense connections that take in the input itself, and norms before convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_bn(3, 9), conv_bn(12, 7)
        self.norm, self.mix = nn.BatchNorm2d(19), nn.Conv2d(19, 8, 1)
        self.twice, self.classifier = nn.Conv2d(16, 6, 1), nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, self.a(x)], 1)
        y = torch.cat([y, self.b(y)], 1)
        y = F.relu(self.mix(F.relu(self.norm(y))))
        y = self.twice(torch.cat([y, y], dim=-3))
        return self.classifier(F.adaptive_avg_pool2d(y, 2).flatten(1))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depth = conv_bn(3, 12), conv_bn(12, 12, groups=12)
        self.multiply, self.project = conv_bn(12, 24, groups=12), nn.Conv2d(24, 10, 1)
        self.classifier = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.project(self.multiply(self.depth(self.expand(x)))).mean((2, 3)))


class Grouped(nn.Module):
    """Grouped convolutions of few and of many groups, group norm, parametric rectifier, transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.few, self.many = conv_bn(3, 16), conv_bn(16, 24, groups=2), conv_bn(24, 24, groups=8)
        self.plain, self.norm, self.act = nn.Conv2d(24, 12, 1), nn.GroupNorm(6, 12), nn.PReLU(12)
        self.up, self.classifier = nn.ConvTranspose2d(12, 8, 2, stride=2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.plain(self.many(self.few(self.stem(x))))))
        return self.classifier(self.up(x).amax((2, 3)))


class Gated(nn.Module):
    """Squeeze and excitation, a spatial attention map, activations of which zero does not stay zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze, self.excite = conv_bn(3, 12), nn.Linear(12, 6), nn.Linear(6, 12)
        self.map, self.body = nn.Conv2d(12, 1, 1), nn.Conv2d(12, 10, 3, padding=1)
        self.tail = nn.Conv2d(10, 8, 3, padding=1, groups=2)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        x = x * gate.view(x.shape[0], -1, 1, 1)
        x = x * torch.sigmoid(self.map(x))
        return self.classifier(F.softplus(self.tail(torch.sigmoid(self.body(x)))).mean((2, 3)))


class Shuffled(nn.Module):
    """Channels dealt out like cards: nothing behind the stem can be followed, the inside of the branch can."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inside, self.out = conv_bn(3, 12), conv_bn(6, 9), nn.Conv2d(9, 6, 1)
        self.classifier = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        x = torch.cat([left, self.out(self.inside(right))], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.classifier(x.mean((2, 3)))


class Twice(nn.Module):
    """A layer that runs twice and two that share a weight: they stay; the one between goes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.free, self.mid = nn.Conv2d(8, 9, 3, padding=1), nn.Conv2d(9, 9, 1)
        self.one, self.other = nn.Conv2d(9, 8, 1), nn.Conv2d(9, 8, 1)
        self.other.weight = self.one.weight
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(F.relu(self.again(F.relu(self.stem(x)))))
        x = F.relu(self.mid(F.relu(self.free(x))))
        x = self.classifier((self.one(x) + self.other(x)).mean((2, 3)))
        return F.log_softmax(x, 1)


@dataclass(frozen=True)
class Subject:
    """A network in eval mode with lively norms, a batch for it, its groups and their costs."""

    model: nn.Module
    example: Tensor
    groups: list[ChannelGroup]
    costs: Costs

    def scores(self, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {group.name: torch.rand(group.size, generator=generator) for group in self.groups}


TINY: dict[str, Callable[[], nn.Module]] = {
    net.__name__: net
    for net in (Chain, Residual, PaddedShortcut, Concatenating, Depthwise, Grouped, Gated, Shuffled, Twice)
}
LARGE: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10),
    "densenet121": lambda: torchvision.models.densenet121(num_classes=10),
    "googlenet": lambda: torchvision.models.googlenet(num_classes=10, aux_logits=False, init_weights=False),
    "regnet_y_400mf": lambda: torchvision.models.regnet_y_400mf(num_classes=10),
}


@cache
def subject(name: str) -> Subject:
    torch.manual_seed(0)
    model = (TINY | LARGE)[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    example = torch.rand(2, 3, *((8, 8) if name in TINY else (64, 64)))
    groups = channel_groups(model, example)
    return Subject(model, example, groups, Costs(model, example, groups))
