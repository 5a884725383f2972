"""Weights that are pruned stay at zero, whatever the optimizer does."""

from __future__ import annotations

import pytest
import torch
from surgery_nets import Chain, subject

from orchestrator.surgery.cutting import CannotCut, apply_weight_masks
from orchestrator.surgery.masks import UnknownParameter, WeightMasks
from orchestrator.surgery.selection import WeightSelection, select_weights


def selection_of(model: torch.nn.Module) -> WeightSelection:
    names = ("first.0.weight", "second.weight", "hidden.weight")
    return select_weights({name: model.get_parameter(name).detach().abs() for name in names}, sparsity=0.6)


def test_masks_hold_through_momentum_and_weight_decay():
    torch.manual_seed(0)
    model = Chain().to(memory_format=torch.channels_last)
    selection = selection_of(model)
    sparse = apply_weight_masks(model, selection)
    masks = WeightMasks(sparse, selection.masks)
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        sparse(torch.rand(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        masks.apply()
    for name, mask in selection.masks.items():
        trained = sparse.get_parameter(name)
        assert trained[~mask].count_nonzero() == 0
        assert not torch.equal(trained[mask], model.get_parameter(name)[mask])
    again = WeightMasks(sparse, {name: sparse.get_parameter(name).detach() != 0 for name in selection.masks})
    with torch.no_grad():
        for name in selection.masks:
            sparse.get_parameter(name).add_(1)
    again.apply()
    assert all(sparse.get_parameter(n)[~m].count_nonzero() == 0 for n, m in selection.masks.items())


def test_dense_model_is_untouched_and_values_come_first():
    model = subject("Chain").model
    before = model.get_parameter("second.weight").clone()
    selection = selection_of(model)
    new = WeightSelection(selection.masks, values={"second.weight": torch.full_like(before, 2.0)})
    sparse = apply_weight_masks(model, new)
    assert torch.equal(sparse.get_parameter("second.weight"), 2.0 * selection.masks["second.weight"])
    assert torch.equal(model.get_parameter("second.weight"), before)


def test_masks_that_do_not_fit_are_refused():
    model = Chain()
    with pytest.raises(UnknownParameter, match=r"'secnd\.weight' to mask.*'second\.weight'"):
        WeightMasks(model, {"secnd.weight": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(UnknownParameter, match=r"'hidden\.bias' has shape \(14,\), its mask \(3,\)"):
        WeightMasks(model, {"hidden.bias": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(CannotCut, match=r"'hidden\.bias' has shape \(14,\), found \(3,\)"):
        apply_weight_masks(model, WeightSelection({"hidden.bias": torch.ones(3, dtype=torch.bool)}))
