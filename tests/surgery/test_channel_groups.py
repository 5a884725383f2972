"""Channel groups name what must go together, and nothing that cannot."""

from __future__ import annotations

import pickle

import pytest
import torch
from surgery_nets import LARGE, TINY, Chain, Residual, conv_bn, subject
from torch import Tensor, nn

from orchestrator.surgery.cutting import CannotCut, cut
from orchestrator.surgery.groups import UnknownLayer, channel_groups
from orchestrator.surgery.selection import ChannelSelection


def members(name: str) -> dict[str, dict[tuple[str, str], tuple[tuple[int, ...], ...]]]:
    return {g.name: {(m.layer, m.axis): m.channels for m in g.members} for g in subject(name).groups}


def test_chain():
    groups = members("Chain")
    assert list(groups) == ["first.0", "second", "hidden"]
    singles = tuple((i,) for i in range(12))
    assert groups["first.0"] == {("first.0", "out"): singles, ("first.1", "out"): singles, ("second", "in"): singles}
    assert groups["second"]["hidden", "in"][1] == tuple(range(9, 18))  # a channel is 3 x 3 inputs of a linear layer


def test_residual_ties_all_that_is_added():
    groups = members("Residual")
    assert list(groups) == ["stem.0", "a.0", "down"]
    assert set(groups["stem.0"]) == {
        *(("stem.0", "out"), ("stem.1", "out"), ("a.0", "in"), ("b", "out"), ("down", "in"), ("c", "in"))
    }


def test_padded_shortcut_ties_the_middle_and_leaves_the_rest():
    groups = members("PaddedShortcut")
    assert groups["stem.0"]["b", "out"] == tuple((i,) for i in range(4, 12))
    assert groups["stem.0"]["classifier", "in"] == groups["stem.0"]["b", "out"]
    assert set(groups) == {"stem.0", "a.0"}


def test_concatenation_knows_offsets_behind_the_input():
    groups = members("Concatenating")
    assert groups["a.0"]["norm", "out"] == tuple((3 + i,) for i in range(9))
    assert groups["b.0"]["mix", "in"] == tuple((12 + i,) for i in range(7))
    assert groups["mix"]["twice", "in"] == tuple((i, 8 + i) for i in range(8))


def test_units_of_grouped_convolutions_and_norms_leave_them_valid():
    depthwise, grouped = members("Depthwise"), members("Grouped")
    assert depthwise["expand.0"]["depth.0", "out"] == tuple((i,) for i in range(12))
    assert depthwise["expand.0"]["multiply.0", "out"] == tuple((2 * i, 2 * i + 1) for i in range(12))
    assert grouped["stem.0"]["few.0", "in"] == tuple((i, 8 + i) for i in range(8))
    assert grouped["plain"]["norm", "out"] == tuple((2 * i, 2 * i + 1) for i in range(6))
    sizes = {g.name: g.size for g in subject("Grouped").groups}
    # few's filters are read by eight groups of three: same position in both of few's groups AND whole groups of many.
    assert sizes == {"stem.0": 8, "few.0": 4, "plain": 6, "up": 8}


def test_unclear_ways_are_left_alone():
    assert [g.name for g in subject("Shuffled").groups] == ["inside.0"]
    assert [g.name for g in subject("Twice").groups] == ["free"]
    gated = subject("Gated").groups
    assert [g.name for g in gated] == ["stem.0", "squeeze", "body", "tail"]
    unseen = [(m.layer, m.axis) for g in gated for m in g.members if not m.sees_zero]
    assert unseen == [("tail", "in"), ("classifier", "in")]


@pytest.mark.parametrize("name", [*TINY, *LARGE])
def test_classifiers_stay_and_results_repeat(name):
    it = subject(name)
    last = [n for n, m in it.model.named_modules() if isinstance(m, nn.Linear)][-1]
    assert all((m.layer, m.axis) != (last, "out") for g in it.groups for m in g.members)
    assert channel_groups(it.model, it.example[:1]) == it.groups
    assert pickle.loads(pickle.dumps(it.groups)) == it.groups
    assert len({g.name for g in it.groups}) == len(it.groups)
    for group in it.groups:
        assert all(len(m.channels) == group.size and len({len(c) for c in m.channels}) == 1 for m in group.members)


def test_leave_drops_the_groups_of_a_layer():
    model, example = Residual(), torch.rand(1, 3, 8, 8)
    assert [g.name for g in channel_groups(model, example, leave=["b"])] == ["a.0", "down"]
    assert [g.name for g in channel_groups(model, example, leave=["a"])] == ["stem.0", "down"]
    model.unprunable = ("down",)
    assert [g.name for g in channel_groups(model, example)] == ["stem.0", "a.0"]
    with pytest.raises(UnknownLayer, match=r"'dwn'.*'down'"):
        channel_groups(model, example, leave=["dwn"])


def test_model_is_left_as_found():
    model = Chain().train()
    model.second.eval()
    model.second.weight.requires_grad_(False)
    seen = []
    model.first.register_forward_hook(lambda *_: seen.append(1))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        assert len(channel_groups(model, torch.rand(2, 3, 8, 8))) == 3
    assert model.training
    assert not model.second.training
    assert not model.second.weight.requires_grad
    assert not seen
    assert sum(len(m._forward_hooks) for m in model.modules()) == 1
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


class Insisting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.classifier = conv_bn(3, 6), nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv(x).view(-1, 6 * 64))


def test_what_cannot_be_cut_is_refused():
    model, example = Insisting(), torch.rand(2, 3, 8, 8)
    with pytest.raises(CannotCut, match="does not run once it is cut"):
        cut(model, example, ChannelSelection({"conv.0": (0, 1, 2)}))
    with pytest.raises(CannotCut, match=r"'conv\.1'.*'conv\.0'"):
        cut(model, example, ChannelSelection({"conv.1": (0,)}))
    with pytest.raises(CannotCut, match=r"units \[6\] of channel group 'conv\.0', which has 6"):
        cut(model, example, ChannelSelection({"conv.0": (6,)}))
    with pytest.raises(CannotCut, match="cannot keep units"):
        cut(model, example, ChannelSelection({"conv.0": ()}))
