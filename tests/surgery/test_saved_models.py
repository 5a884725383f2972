"""A saved network comes back as it was, or is refused with the path of what is damaged."""

from __future__ import annotations

import json

import pytest
import torch
from surgery_nets import TINY, Chain, Residual, Twice, subject
from torch import nn

from orchestrator.surgery.cutting import apply_weight_masks, cut
from orchestrator.surgery.selection import ChannelSelection, select_channels, select_weights
from orchestrator.surgery.serialization import DamagedModel, rebuild, save_pruned


def fresh(name: str) -> nn.Module:
    torch.manual_seed(99)
    return TINY[name]().eval()


@pytest.mark.parametrize("name", TINY)
def test_rebuilt_equals_cut(name, tmp_path):
    it = subject(name)
    selection = select_channels(it.scores(), it.groups, it.costs, quantity="channels", sparsity=0.4)
    smaller = cut(it.model, it.example, selection).to(memory_format=torch.channels_last)
    save_pruned(tmp_path / "trial", smaller, {"model": name, "kept": selection.kept})
    assert sorted(p.name for p in (tmp_path / "trial").iterdir()) == ["cut.json", "model.safetensors"]
    again = rebuild(fresh(name), it.example, tmp_path / "trial")
    with torch.no_grad():
        torch.testing.assert_close(again(it.example), smaller(it.example))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in smaller.state_dict().items())


def test_masked_weights_come_back_as_zeros(tmp_path):
    it = subject("Twice")  # shares a weight between two layers
    selection = select_weights({"free.weight": it.model.get_parameter("free.weight").abs()}, sparsity=0.5)
    sparse = apply_weight_masks(it.model, selection)
    save_pruned(tmp_path, sparse, {"kept": None})
    again = rebuild(fresh("Twice"), it.example, tmp_path)
    assert torch.equal(again.free.weight != 0, selection.masks["free.weight"])
    assert isinstance(again, Twice)
    assert again.one.weight is again.other.weight


@pytest.fixture
def saved(tmp_path):
    it = subject("Chain")
    save_pruned(tmp_path, cut(it.model, it.example, ChannelSelection({"second": (1, 2)})), {"kept": {"second": [1, 2]}})
    return tmp_path


def rewrite(path, change) -> None:
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: missing"),
        (lambda f: (f / "cut.json").unlink(), r"cut\.json: missing"),
        (lambda f: (f / "cut.json").write_text("{"), r"cut\.json: "),
        (lambda f: (f / "cut.json").write_text("[]"), r"cut\.json: not a description"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), r"model\.safetensors: not the file"),
        (lambda f: rewrite(f / "cut.json", lambda d: d["kept"].update(second=[1])), r"'second\.weight' has shape"),
        (lambda f: rewrite(f / "cut.json", lambda d: d.update(kept={"third": [1]})), r"cut\.json: does not fit.*third"),
        (lambda f: rewrite(f / "cut.json", lambda d: d.update(kept=[1])), r"cut\.json: does not fit"),
    ],
)
def test_damage_is_refused_with_its_path(saved, damage, message):
    damage(saved)
    with pytest.raises(DamagedModel, match=message) as caught:
        rebuild(Chain(), torch.rand(1, 3, 8, 8), saved)
    assert str(saved) in str(caught.value)


def test_another_network_is_refused(saved):
    rewrite(saved / "cut.json", lambda d: d.update(kept=None))
    with pytest.raises(DamagedModel, match=r"is missing|not of this network"):
        rebuild(Residual(), torch.rand(1, 3, 8, 8), saved)


def test_saving_again_replaces(saved):
    it = subject("Chain")
    save_pruned(saved, cut(it.model, it.example, ChannelSelection({"second": (3,)})), {"kept": {"second": [3]}})
    assert rebuild(Chain(), it.example, saved).second.out_channels == 1
    assert len(list(saved.iterdir())) == 2
