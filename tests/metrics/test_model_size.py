"""Sizes of networks: against counts done by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from orchestrator.metrics.macs import count_macs, layer_macs
from orchestrator.metrics.size import LayersDiffer, layer_table, sizes

torch.set_num_threads(1)
EXAMPLE = torch.rand(2, 3, 8, 8)


def net(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, a, 3, padding=1, bias=False),
        nn.BatchNorm2d(a),
        nn.Conv2d(a, a, 3, stride=2, padding=1, groups=a),
        nn.Conv2d(a, b, 1),
        nn.Flatten(),
        nn.Linear(b * 16, 5),
    )


def test_multiply_adds_by_hand():
    model = net(4, 6).train()
    assert list(layer_macs(model, EXAMPLE).values()) == [64 * 4 * 27, 16 * 4 * 9, 16 * 6 * 4, 96 * 5]
    assert count_macs(model, EXAMPLE) == count_macs(model, EXAMPLE[:1]) == 6912 + 576 + 384 + 480
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert not model[1].num_batches_tracked


def test_grouped_transposed_and_repeated_layers():
    twice = nn.Linear(5, 5)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2), nn.Flatten(), nn.Linear(96, 5)
    )
    assert count_macs(nn.Sequential(model, twice, twice), torch.rand(1, 4, 4, 4)) == (
        (4 * 8 * 2 * 9) + (4 * 8 * 3 * 4) + 96 * 5 + 25 + 25
    )


def test_a_failing_forward_leaves_no_hooks():
    model = net(4, 6)
    with pytest.raises(RuntimeError):
        count_macs(model, torch.rand(1, 2, 8, 8))
    assert not any(m._forward_hooks for m in model.modules())
    assert model.training


def test_structured_sizes():
    dense, cut = net(4, 6), net(2, 3)
    for model in (dense, cut):
        for parameter in model.parameters():
            nn.init.ones_(parameter)
    size = sizes(dense, cut, EXAMPLE, unstructured=False)
    dense_params, params = 108 + 8 + 40 + 30 + 485, 54 + 4 + 20 + 9 + 245
    assert size["dense_params"] == dense_params
    assert size["params"] == params
    assert size["param_sparsity"] == pytest.approx(1 - params / dense_params)
    assert size["compression_ratio"] == pytest.approx(dense_params / params)
    assert size["macs"] == 3456 + 288 + 96 + 240
    assert size["mac_sparsity"] == pytest.approx(1 - 4080 / 8352)
    assert size["filter_sparsity"] == pytest.approx(1 - (2 + 2 + 3) / (4 + 4 + 6))
    assert size["weight_sparsity"] == pytest.approx(1 - (54 + 18 + 6 + 240) / (108 + 36 + 24 + 480))
    rows = {row.layer: row for row in layer_table(dense, cut, EXAMPLE)}
    assert [row.kind for row in rows.values()] == ["conv", "norm", "depthwise_conv", "conv", "linear"]
    assert (rows["3"].dense_channels, rows["3"].kept_channels) == (6, 3)
    assert (rows["2"].dense_params, rows["2"].params, rows["2"].nonzero) == (40, 20, 20)
    assert sum(row.params for row in rows.values()) == params
    assert sum(row.macs for row in rows.values()) == size["macs"]


def test_zeros_shrink_parameters_but_claim_no_speed():
    dense, sparse = net(4, 6), net(4, 6)
    for model in (dense, sparse):
        for parameter in model.parameters():
            nn.init.ones_(parameter)
    with torch.no_grad():
        sparse[5].weight[:, :48] = 0
    size = sizes(dense, sparse, EXAMPLE, unstructured=True)
    assert size["params"] == size["dense_params"] - 240
    assert size["macs"] == size["dense_macs"]
    assert size["mac_sparsity"] == 0
    assert size["filter_sparsity"] == 0
    assert size["weight_sparsity"] == pytest.approx(240 / 648)
    assert sizes(dense, sparse, EXAMPLE, unstructured=False)["params"] == size["dense_params"]
    row = layer_table(dense, sparse, EXAMPLE)[-1]
    assert (row.params, row.nonzero, row.macs, row.dense_macs) == (485, 245, 480, 480)


def test_a_missing_layer_is_named():
    with pytest.raises(LayersDiffer, match="'5' \\(Linear\\)"):
        layer_table(net(4, 6), net(4, 6)[:5], EXAMPLE)
