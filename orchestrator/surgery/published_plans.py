"""Published plans: the number of filters each layer keeps, by plan and network; without torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from orchestrator.spec.errors import PrunesweepError, nearest

Counts = dict[str, int]
"""Filters to keep, by channel group; layers that are not named keep all."""


class UnknownPlan(PrunesweepError, ValueError):
    """Raised for a plan that does not exist, or not for this network."""


def planned_counts(plan: str, model: str) -> Counts:
    """Return the filters that a plan keeps of a network, which is named as in a search space.

    Raises:
        UnknownPlan: no such plan, or none of that name for this network.
    """
    if plan not in PLANS:
        raise UnknownPlan(f"unknown plan {plan!r}{nearest(plan, PLANS)}")
    if model not in PLANS[plan]:
        other_plans = sorted(name for name, models in PLANS.items() if model in models)
        known = f"; plans of {model!r}: {', '.join(other_plans)}" if other_plans else ""
        raise UnknownPlan(f"plan {plan!r} is one of {', '.join(sorted(PLANS[plan]))}, found model {model!r}{known}")
    return dict(PLANS[plan][model])


_VGG16 = {
    "conv1_1": 64, "conv1_2": 64, "conv2_1": 128, "conv2_2": 128, "conv3_1": 256, "conv3_2": 256, "conv3_3": 256,
    "conv4_1": 512, "conv4_2": 512, "conv4_3": 512, "conv5_1": 512, "conv5_2": 512, "conv5_3": 512,
}  # fmt: skip
_CONVNET = {"conv1_1": 64, "conv2_1": 128, "conv3_1": 256, "conv4_1": 512, "conv5_1": 512}


def _widths(dense: Mapping[str, int], kept: Sequence[int]) -> Counts:
    return {name: count for (name, width), count in zip(dense.items(), kept, strict=True) if count != width}


def _without(dense: Mapping[str, int], removed: Sequence[int]) -> Counts:
    return _widths(dense, [width - count for width, count in zip(dense.values(), removed, strict=True)])


def _rounded_down(width: int, percent: int) -> int:
    """Return ``int(width * (1 - p))`` of the papers' code, in whole numbers."""
    return width * (100 - percent) // 100


def _first_convolutions(
    widths: Sequence[int], blocks: Sequence[int], percents: Sequence[int], skip: Collection[int] = ()
) -> Counts:
    """Return counts where the first convolution of every block loses its stage's percentage.

    ``skip``: blocks that keep all, named as in PFEC's code by their first convolution's number among all convolutions
    of the network (the stem is 1, so the blocks are 2, 4, 6, ...).
    """
    counts: Counts = {}
    number = 0
    for stage, (width, count, percent) in enumerate(zip(widths, blocks, percents, strict=True), start=1):
        for block in range(count):
            number += 2
            if percent and number not in skip:
                counts[f"layer{stage}.{block}.conv1"] = _rounded_down(width, percent)
    return counts


def _cifar(depth: int, percents: Sequence[int], skip: Collection[int] = ()) -> Counts:
    return _first_convolutions((16, 32, 64), [(depth - 2) // 6] * 3, percents, skip)


def _imagenet(blocks: Sequence[int], percents: Sequence[int], skip: Collection[int] = ()) -> Counts:
    return _first_convolutions((64, 128, 256, 512), blocks, percents, skip)


def _stages(blocks: int, kept: Sequence[int]) -> Counts:
    return {f"layer{s}.{b}.conv1": count for s, count in enumerate(kept, start=1) for b in range(blocks)}


def _bottlenecks(*percents: int) -> Mapping[str, Counts]:
    """Return a plan of ResNet-50: the two inner convolutions of every block lose their stage's percentage."""
    counts: Counts = {}
    for stage, (blocks, percent) in enumerate(zip((3, 4, 6, 3), percents, strict=True), start=1):
        for block in range(blocks):
            for layer in ("conv1", "conv2"):
                counts[f"layer{stage}.{block}.{layer}"] = _rounded_down(32 << stage, percent)
    return {"torchvision:resnet50": counts}


_R34, _R18 = (3, 4, 6, 3), (2, 2, 2, 2)
_R34_SKIP = (2, 8, 14, 16, 26, 28, 30, 32)
_R56_SKIP = (16, 18, 20, 34, 38, 54)

PLANS: Mapping[str, Mapping[str, Counts]] = {
    # Pruning Filters for Efficient ConvNets (Li et al. 2017) and paper 001, section 1.4, whose names for the ImageNet
    # networks' further plans are kept (ResNet-18 begins at C).
    "pfec_a": {
        "vgg16": _widths(_VGG16, [32, 64, 128, 128, *[256] * 9]),
        "resnet56": _cifar(56, (10, 10, 10), (16, 20, 38, 54)),
        "resnet110": _cifar(110, (50, 0, 0), (36,)),
        "torchvision:resnet34": _imagenet(_R34, (30, 30, 30, 0), _R34_SKIP),
    },
    "pfec_b": {
        "vgg16": _widths(_VGG16, [32, 64, 128, 128, 196, 196, 196, 196, 196, 256, 256, 256, 256]),
        "resnet56": _cifar(56, (60, 30, 10), _R56_SKIP),
        "resnet110": _cifar(110, (50, 40, 30), (36, 38, 74)),
        "torchvision:resnet34": _imagenet(_R34, (50, 60, 40, 0), _R34_SKIP),
    },
    "pfec_c": {
        "vgg16": _widths(_VGG16, [32, 64, 64, 128, 128, 128, 128, *[196] * 6]),
        "resnet56": _cifar(56, (60, 50, 40), _R56_SKIP),
        "resnet110": _cifar(110, (50, 50, 50), (36, 38, 74)),
        "torchvision:resnet34": _imagenet(_R34, (50, 50, 50, 50), (2, 8, 14, 16, 26, 32)),
        "torchvision:resnet18": _imagenet(_R18, (10, 10, 20, 30)),
    },
    "pfec_d": {
        "resnet56": _cifar(56, (60, 60, 60), _R56_SKIP),
        "resnet110": _cifar(110, (50, 60, 70), (36, 38, 74)),
        "torchvision:resnet34": _imagenet(_R34, (40, 40, 50, 50), (32,)),
        "torchvision:resnet18": _imagenet(_R18, (20, 20, 30, 30), (16,)),
    },
    "pfec_e": {"torchvision:resnet18": _imagenet(_R18, (30, 30, 30, 35))},
    "pfec_f": {"torchvision:resnet18": _imagenet(_R18, (50, 50, 50, 55))},
    "pfec_g": {"torchvision:resnet18": _imagenet(_R18, (70, 70, 70, 75))},
    # Paper 001, Tables 3, 4 and 8 to 12: ResNet-50 of the number of parameters that another method's network has.
    "taylor_91": _bottlenecks(10, 10, 10, 10),
    "taylor_81": _bottlenecks(25, 25, 25, 27),
    "taylor_72": _bottlenecks(40, 40, 40, 42),
    "taylor_56": _bottlenecks(70, 70, 75, 75),
    "dcp_30": _bottlenecks(30, 30, 30, 30),
    "dcp_50": _bottlenecks(50, 50, 50, 50),
    "dcp_70": _bottlenecks(70, 70, 70, 70),
    "gal_05": _bottlenecks(14, 14, 14, 15),
    "gal_1": _bottlenecks(40, 40, 40, 40),
    "hrank_plus_15": _bottlenecks(35, 35, 35, 40),
    "hrank_plus_11": _bottlenecks(55, 55, 55, 58),
    "pfp_18": _bottlenecks(14, 14, 14, 16),
    "pfp_44": _bottlenecks(40, 40, 40, 42),
    # Paper 000, Tables 3 and 4: filters removed. Its ResNet-32 is known by its totals alone (21.5 and 30.2 % of the
    # filters, deeper layers being the more sensitive): these shares by stage are chosen here to give them.
    "functionality_a": {
        "convnet": _without(_CONVNET, [19, 8, 21, 146, 398]),
        "vgg16": _without(_VGG16, [19, 3, 8, 17, 21, 18, 36, 146, 313, 223, 398, 395, 218]),
        "resnet32": _stages(5, (6, 16, 41)),
    },
    "functionality_b": {
        "convnet": _without(_CONVNET, [36, 38, 64, 329, 483]),
        "vgg16": _without(_VGG16, [36, 19, 38, 26, 64, 64, 77, 329, 424, 438, 483, 432, 384]),
        "resnet32": _stages(5, (4, 10, 29)),
    },
}
