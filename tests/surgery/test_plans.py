"""Published plans: what they keep fits our networks, and leaves the sizes that were published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import pytest
import torch

from orchestrator.models.build import build
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.groups import channel_groups
from orchestrator.surgery.published_plans import PLANS, UnknownPlan, planned_counts
from orchestrator.surgery.selection import select_channels

torch.set_num_threads(1)

CASES = [(plan, model) for plan, models in PLANS.items() for model in models]
VGG16 = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
CONVNET = [64, 128, 256, 512, 512]
VGG_NAMES = [f"conv{b}_{i}" for b, n in enumerate((2, 2, 3, 3, 3), start=1) for i in range(1, n + 1)]
CONVNET_NAMES = [f"conv{b}_1" for b in range(1, 6)]


@cache
def costs(model: str) -> Costs:
    size, classes = (224, 1000) if model.startswith("torchvision:") else (32, 10)
    network = build(model, {}, classes=classes, channels=3, size=size)
    example = torch.zeros(1, 3, size, size)
    return Costs(network, example, channel_groups(network, example))


@pytest.mark.parametrize(("plan", "model"), CASES)
def test_a_plan_names_groups_of_its_network_and_shrinks_each(plan: str, model: str) -> None:
    counts = planned_counts(plan, model)
    sizes = dict(zip(costs(model).names, costs(model).dense_counts.tolist(), strict=True))
    assert counts
    assert all(1 <= kept < sizes[name] for name, kept in counts.items())


def chain(widths: Sequence[int], maps: Sequence[int]) -> tuple[int, int]:
    """Weights and multiply-adds of 3x3 convolutions on colour images."""
    inputs = [3, *widths[:-1]]
    weights = [9 * i * o for i, o in zip(inputs, widths, strict=True)]
    return sum(weights), sum(w * m * m for w, m in zip(weights, maps, strict=True))


def vgg16(counts: Mapping[str, int]) -> tuple[int, int]:
    widths = [counts.get(name, width) for name, width in zip(VGG_NAMES, VGG16, strict=True)]
    weights, macs = chain(widths, [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2])
    hidden = widths[-1] * 512
    return weights + 2 * sum(widths) + hidden + 512 + 2 * 512 + 512 * 10 + 10, macs + hidden + 512 * 10


def cifar_resnet(depth: int, counts: Mapping[str, int]) -> tuple[int, int]:
    weights, macs, channels = 9 * 3 * 16 + 2 * 16, 9 * 3 * 16 * 32 * 32, 16
    for stage, (width, side) in enumerate([(16, 32), (32, 16), (64, 8)], start=1):
        for block in range((depth - 2) // 6):
            inner = counts.get(f"layer{stage}.{block}.conv1", width)
            both = 9 * channels * inner + 9 * inner * width
            weights, macs = weights + both + 2 * inner + 2 * width, macs + both * side * side
            channels = width
    return weights + 64 * 10 + 10, macs + 64 * 10


def basic_resnet(blocks: Sequence[int], counts: Mapping[str, int]) -> tuple[int, int]:
    params, macs, channels = 49 * 3 * 64 + 2 * 64, 49 * 3 * 64 * 112 * 112, 64
    for stage, (width, side) in enumerate([(64, 56), (128, 28), (256, 14), (512, 7)], start=1):
        for block in range(blocks[stage - 1]):
            inner = counts.get(f"layer{stage}.{block}.conv1", width)
            weights = 9 * channels * inner + 9 * inner * width + (channels * width if channels != width else 0)
            norms = inner + width + (width if channels != width else 0)
            params, macs = params + weights + 2 * norms, macs + weights * side * side
            channels = width
    return params + 512 * 1000 + 1000, macs + 512 * 1000


@pytest.mark.parametrize(
    ("plan", "params", "macs", "fewer_params", "fewer_macs"),
    [
        ("pfec_a", 5_397_034, 206_279_680, 64.0, 34.2),
        ("pfec_b", 4_212_754, 160_591_360, 71.9, 48.8),
        ("pfec_c", 2_637_482, 95_313_088, 82.4, 69.6),
    ],
)
def test_pfec_vgg16(plan: str, params: int, macs: int, fewer_params: float, fewer_macs: float) -> None:
    counts = planned_counts(plan, "vgg16")
    assert vgg16(counts) == (params, macs)
    check("vgg16", counts, params, macs, fewer_params, fewer_macs)


@pytest.mark.parametrize(
    ("depth", "plan", "params", "macs", "fewer_params", "fewer_macs"),
    [
        (56, "pfec_a", 773_336, 112_435_840, 9.3, 10.4),
        (56, "pfec_b", 735_712, 90_907_264, 13.8, 27.6),
        (56, "pfec_c", 557_954, 74_908_288, 34.6, 40.3),
        (56, "pfec_d", 436_756, 64_070_272, 48.8, 48.9),
        (110, "pfec_a", 1_688_522, 212_779_648, 2.3, 15.9),
        (110, "pfec_b", 1_168_424, 155_124_352, 32.4, 38.7),
        (110, "pfec_c", 903_530, 132_563_584, 47.7, 47.6),
        (110, "pfec_d", 609_192, 106_242_688, 64.7, 58.0),
    ],
)
def test_pfec_cifar_resnets(
    depth: int, plan: str, params: int, macs: int, fewer_params: float, fewer_macs: float
) -> None:
    """ResNet-56-A and B are Li et al.'s: 10.4 and 27.6 % fewer MACs; 9.4 and 13.7 % fewer parameters in print."""
    counts = planned_counts(plan, f"resnet{depth}")
    assert cifar_resnet(depth, counts) == (params, macs)
    check(f"resnet{depth}", counts, params, macs, fewer_params, fewer_macs)


@pytest.mark.parametrize(
    ("depth", "plan", "params", "macs", "fewer_params", "fewer_macs"),
    [
        (34, "pfec_a", 20_151_764, 3_100_184_576, 7.6, 15.4),
        (34, "pfec_b", 19_469_372, 2_782_269_440, 10.7, 24.1),
        (34, "pfec_c", 14_938_536, 2_536_607_744, 31.5, 30.8),
        (34, "pfec_d", 13_735_148, 2_162_696_192, 37.0, 41.0),
        (18, "pfec_c", 8_717_024, 1_518_511_616, 25.4, 16.3),
        (18, "pfec_d", 9_868_580, 1_464_095_744, 15.6, 19.3),
        (18, "pfec_e", 7_960_952, 1_282_333_184, 31.9, 29.3),
        (18, "pfec_f", 5_775_424, 955_386_368, 50.6, 47.3),
        (18, "pfec_g", 3_575_484, 616_472_576, 69.4, 66.0),
    ],
)
def test_pfec_imagenet_resnets(
    depth: int, plan: str, params: int, macs: int, fewer_params: float, fewer_macs: float
) -> None:
    """ResNet-34-A and B are Li et al.'s: 15.5 and 24.2 % fewer MACs, 7.6 and 10.8 % fewer parameters in print."""
    counts = planned_counts(plan, f"torchvision:resnet{depth}")
    assert basic_resnet({34: (3, 4, 6, 3), 18: (2, 2, 2, 2)}[depth], counts) == (params, macs)
    check(f"torchvision:resnet{depth}", counts, params, macs, fewer_params, fewer_macs)


@pytest.mark.parametrize(
    ("plan", "printed"),
    [
        ("taylor_91", 22_420_635),
        ("taylor_81", 17_913_255),
        ("taylor_72", 14_229_642),
        ("taylor_56", 7_961_423),
        ("dcp_30", 16_945_246),
        ("dcp_50", 12_381_864),
        ("dcp_70", 8_665_318),
        ("gal_05", 21_105_070),
        ("gal_1", 14_532_769),
        ("hrank_plus_15", 14_987_634),
        ("hrank_plus_11", 11_004_777),
        ("pfp_18", 20_931_915),
        ("pfp_44", 14_229_642),
    ],
)
def test_resnet50_has_the_parameters_that_the_papers_code_prints(plan: str, printed: int) -> None:
    """Paper 001's code notes the size of every network that it matched to another method's (tables 3, 4, 8 to 12)."""
    assert costs("torchvision:resnet50").params(planned_counts(plan, "torchvision:resnet50")) == printed


def test_functionality_counts_are_those_of_its_tables() -> None:
    """Paper 000: filters removed in all, and the convolutions' MACs (printed 1.85e8 and 1.03e8 for VGG-16)."""
    for plan, removed, weights, macs in [
        ("functionality_a", 1815, 4_044_978, 184_765_752),
        ("functionality_b", 2814, 1_579_221, 103_681_368),
    ]:
        counts = planned_counts(plan, "vgg16")
        widths = [counts[name] for name in VGG_NAMES]
        assert sum(VGG16) - sum(widths) == removed
        assert chain(widths, [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]) == (weights, macs)
        assert costs("vgg16").macs(counts) == macs + widths[-1] * 512 + 512 * 10
    for plan, removed, macs in [("functionality_a", 592, 43_816_464), ("functionality_b", 950, 21_784_140)]:
        counts = planned_counts(plan, "convnet")
        widths = [counts[name] for name in CONVNET_NAMES]
        assert sum(CONVNET) - sum(widths) == removed
        assert chain(widths, [32, 16, 8, 4, 2])[1] == macs
        assert costs("convnet").macs(counts) == macs + widths[-1] * 10
    filters = 16 + 10 * (16 + 32 + 64)
    for plan, share in [("functionality_a", 21.6), ("functionality_b", 30.4)]:  # printed: 21.5 and 30.2
        counts = planned_counts(plan, "resnet32")
        removed = 5 * (16 + 32 + 64) - sum(counts.values())
        assert round(100 * removed / filters, 1) == share
        rates = [1 - counts[f"layer{s}.0.conv1"] / (8 << s) for s in (1, 2, 3)]
        assert rates == sorted(rates, reverse=True)  # deeper layers are the more sensitive


def check(
    model: str, counts: Mapping[str, int], params: int, macs: int, fewer_params: float, fewer_macs: float
) -> None:
    """Our arithmetic on our networks says the same, and a selection with these counts achieves it."""
    own = costs(model)
    assert (own.params(counts), own.macs(counts)) == (params, macs)
    assert round(100 * (1 - params / own.dense("params")), 1) == fewer_params
    assert round(100 * (1 - macs / own.dense("macs")), 1) == fewer_macs


def test_a_selection_keeps_what_the_plan_says() -> None:
    network = build("resnet56", {}, classes=10, channels=3, size=32)
    example = torch.zeros(1, 3, 32, 32)
    groups = channel_groups(network, example)
    scores = {group.name: torch.arange(group.size) for group in groups}
    counts = planned_counts("pfec_b", "resnet56")
    selection = select_channels(scores, groups, Costs(network, example, groups), quantity="macs", kept=counts)
    assert {name: len(units) for name, units in selection.kept.items() if name in counts} == counts
    assert len(selection.kept["conv1"]) == 16
    assert round(selection.achieved, 3) == 0.276


def test_unknown_plans_and_plans_of_other_networks() -> None:
    with pytest.raises(UnknownPlan, match="unknown plan 'pfec_aa'; did you mean 'pfec_a'"):
        planned_counts("pfec_aa", "vgg16")
    with pytest.raises(
        UnknownPlan, match="plan 'dcp_50' is one of torchvision:resnet50, found model 'vgg16'; plans of"
    ):
        planned_counts("dcp_50", "vgg16")
