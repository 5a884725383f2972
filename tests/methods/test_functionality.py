"""Functionality-oriented pruning: patterns, contributions, clusters, and who goes."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from torch.nn import functional as F
from weight_tasks import task_of

from orchestrator.methods import METHODS
from orchestrator.methods.base import PruneTask, select
from orchestrator.methods.one_shot.functionality.activation_maximisation import (
    centroids,
    cluster,
    elbow,
    filter_patterns,
    filter_site,
    shared_start,
)
from orchestrator.methods.one_shot.functionality.contribution import contribution_index
from orchestrator.methods.one_shot.functionality.filter_clusters import WrongClusters, removed
from orchestrator.methods.one_shot.functionality.functionality_transition import functionality_transition
from orchestrator.methods.one_shot.functionality.method import Functionality
from orchestrator.surgery.groups import channel_groups
from orchestrator.surgery.selection import ChannelSelection

torch.set_num_threads(1)
EXAMPLE = torch.zeros(1, 2, 4, 4)


def chain(filters: int = 6, *, norm: bool = False, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, filters, 3, padding=1),
        nn.BatchNorm2d(filters) if norm else nn.Identity(),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(filters, 5, 3, padding=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )


def task(model: nn.Module, example: Tensor = EXAMPLE, **target: object) -> PruneTask:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, *example.shape[1:], generator=generator, dtype=example.dtype)
    batches = [(images[:4], torch.tensor([0, 1, 2, 0])), (images[4:], torch.tensor([2, 1]))]
    return task_of(model, batches, size=6, **{"quantity": "channels", **target})


class Linear(nn.Module):
    """Filters as large as the image: what each looks for is its own weights."""

    def __init__(self, weights: Tensor, norm: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, len(weights), 4, bias=False)
        self.norm = nn.BatchNorm2d(len(weights)) if norm else nn.Identity()
        self.fc = nn.Linear(len(weights), 3)
        with torch.no_grad():
            self.conv.weight.copy_(weights)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(F.relu(self.norm(self.conv(images))).flatten(1))
        return logits


def patterns_of(model: nn.Module, start: Tensor) -> Tensor:
    group = channel_groups(model, start)[0]
    return filter_patterns(model, group, start, ascent_steps=100, step_size=0.1)


def weights(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_the_pattern_of_a_linear_filter_is_the_filter() -> None:
    filters = weights(5)
    filters -= filters.mean((1, 2, 3), keepdim=True)
    patterns = patterns_of(Linear(filters), shared_start(EXAMPLE, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(patterns.mean(1), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(patterns.square().mean(1), torch.ones(5))
    assert F.cosine_similarity(patterns, filters.flatten(1)).min() > 0.999


def test_a_negative_scale_of_batch_norm_turns_the_pattern_around() -> None:
    filters = weights(4)
    filters -= filters.mean((1, 2, 3), keepdim=True)
    model = Linear(filters, norm=True)
    nn.init.constant_(model.norm.weight, -0.3)
    model.train()
    patterns = patterns_of(model, shared_start(EXAMPLE, torch.Generator().manual_seed(0)))
    assert F.cosine_similarity(patterns, filters.flatten(1)).max() < -0.999
    assert model.training
    assert model.norm.num_batches_tracked == 0  # statistics are those of the network, not of the patterns
    assert not model.norm._forward_hooks


def test_the_ascent_raises_the_answer_of_a_filter_that_sees_part_of_the_image() -> None:
    model = chain(norm=True)
    group = channel_groups(model, EXAMPLE)[0]
    start = shared_start(EXAMPLE, torch.Generator().manual_seed(0))
    assert filter_site(group, model)[0] == "1"
    few, many = (filter_patterns(model, group, start, ascent_steps=n, step_size=0.1).view(-1, 2, 4, 4) for n in (1, 30))
    answer = model.eval()[:2]
    assert (answer(many).mean((2, 3)).diagonal() > answer(few).mean((2, 3)).diagonal()).all()


@pytest.mark.parametrize("norm", [False, True])
def test_contribution_is_the_mean_change_of_the_true_logit(norm: bool) -> None:
    """Against finite differences: one value of one feature map of one image is moved at a time."""
    model = chain(3, norm=norm).double().eval()
    if norm:
        nn.init.uniform_(model[1].weight, 0.5, 1.5)
    job = task(model, EXAMPLE.double())
    contribution = contribution_index(model, job.groups, job.calibration())["0"]
    site, step, expected = (1 if norm else 0), 1e-6, torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        for images, targets in job.calibration():
            maps = model[: site + 1](images)
            for channel in range(3):
                for y in range(4):
                    for x in range(4):
                        moved = []
                        for sign in (1, -1):
                            changed = maps.clone()
                            changed[:, channel, y, x] += sign * step
                            moved.append(model[site + 1 :](changed).gather(1, targets[:, None]))
                        expected[channel] += ((moved[0] - moved[1]) / (2 * step)).abs().sum() / 16 / 6
    torch.testing.assert_close(contribution, expected, atol=1e-7, rtol=1e-5)


def test_contribution_does_not_change_with_activations_in_place() -> None:
    plain, inplace = (chain(inplace=inplace) for inplace in (False, True))
    job = task(plain)
    first, second = (contribution_index(m, job.groups, job.calibration()) for m in (plain, inplace))
    assert first.keys() == second.keys() == {"0", "3"}
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_filters_of_one_family_are_one_cluster() -> None:
    families = torch.arange(40) % 7
    noisy = weights(7)[families] + 0.05 * weights(40, seed=1)
    patterns = patterns_of(Linear(noisy), shared_start(EXAMPLE, torch.Generator().manual_seed(0)))
    assert elbow(patterns.double().numpy()) == 7
    for count in (None, 7):
        labels = cluster(patterns, count, restarts=10)
        assert len({(int(a), int(b)) for a, b in zip(families, labels, strict=True)}) == 7
    assert cluster(patterns[:3], 10, restarts=1).unique().tolist() == [0, 1, 2]
    with pytest.warns(ConvergenceWarning):
        assert cluster(patterns[:1].expand(6, -1), 3, restarts=1).tolist() == [0] * 6


def directly(labels: list[int], contribution: list[float], count: int) -> set[int]:
    """Rules (a) to (c) word by word."""
    clusters = [[i for i, own in enumerate(labels) if own == c] for c in range(max(labels) + 1)]
    best = [max(members, key=lambda i: (contribution[i], i)) for members in clusters]
    spare = len(labels) - len(clusters)
    if count > spare:
        whole = sorted(best, key=lambda i: (contribution[i], i))[: count - spare]
        return {i for i in range(len(labels)) if i not in best} | set(whole)
    shares = [Fraction(count * (len(members) - 1), max(spare, 1)) for members in clusters]
    quotas = [math.floor(share) for share in shares]
    by_remainder = sorted(
        range(len(clusters)), key=lambda c: (quotas[c] - shares[c], -len(clusters[c]), c)
    )  # the largest remainder first
    for c in by_remainder[: count - sum(quotas)]:
        quotas[c] += 1
    assert all(quota <= len(members) - 1 for quota, members in zip(quotas, clusters, strict=True))
    gone = set()
    for members, quota in zip(clusters, quotas, strict=True):
        gone |= set(sorted(members, key=lambda i: (contribution[i], i))[:quota])
    return gone


def scores_of(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Scores as the method gives them, with random clusters and contributions."""
    generator = torch.Generator().manual_seed(seed)
    scores: dict[str, Tensor] = {}
    for group in channel_groups(model, EXAMPLE):
        labels = torch.randint(0, 5, (group.size,), generator=generator).unique(return_inverse=True)[1]
        contribution = torch.randint(0, 9, (group.size,), generator=generator) / 8  # with ties
        scores[f"clusters/{group.name}"] = labels.float()  # what is stored is float
        scores[f"contribution/{group.name}"] = contribution
        scores[group.name] = torch.rand(group.size, generator=generator)
    return scores


@pytest.mark.parametrize("seed", range(4))
def test_stated_counts_and_uniform_shares_select_what_the_rules_select(seed: int) -> None:
    model = chain(21)
    scores = scores_of(model, seed)
    targets: list[dict[str, object]] = [{"kept": {"0": n}} for n in range(1, 22)]
    targets += [{"sparsity": s, "quantity": q} for s in (0.1, 0.4, 0.7) for q in ("channels", "macs")]
    for target in targets:
        selection = select(Functionality(), scores, task(model, **target))
        assert isinstance(selection, ChannelSelection)
        for name, kept in selection.kept.items():
            labels, contribution = scores[f"clusters/{name}"].int().tolist(), scores[f"contribution/{name}"].tolist()
            gone = directly(labels, contribution, len(labels) - len(kept))
            assert set(kept) == set(range(len(labels))) - gone


def test_a_cluster_may_give_up_fewer_of_more() -> None:
    """Largest remainders: 7, 7 and 3 filters give up 4, 4, 2 of ten and 5, 5, 1 of eleven; no ranking can do that."""
    labels = torch.tensor([0] * 7 + [1] * 7 + [2] * 3)
    contribution = torch.arange(17.0)
    assert [removed(labels, contribution, 10)[labels == c].sum() for c in range(3)] == [4, 4, 2]
    assert [removed(labels, contribution, 11)[labels == c].sum() for c in range(3)] == [5, 5, 1]
    assert removed(labels, contribution, 15).tolist() == [True] * 13 + [False] + [True] * 2 + [False]


def test_without_a_sparsity_filters_far_below_their_clusters_mean_go() -> None:
    scores = {
        "0": torch.zeros(6),
        "clusters/0": torch.tensor([0.0, 0, 0, 1, 1, 2]),
        "contribution/0": torch.tensor([1.0, 4.0, 7.0, 3.0, 9.0, 0.1]),  # means 4, 6, 0.1
    }
    assert Functionality(pr=0.5).keep(scores)["0"].tolist() == [False, True, True, True, True, True]
    assert Functionality(pr=1.0).keep(scores)["0"].tolist() == [False, True, True, False, True, True]
    assert Functionality(pr=2.5).keep(scores)["0"].tolist() == [False, False, True, False, True, True]


def test_scores_name_clusters_and_contributions() -> None:
    model = chain(12)
    job = task(model, sparsity=0.5)
    scores = Functionality(clusters={"0": 4}, ascent_steps=5).scores(model, job)
    assert scores["clusters/0"].unique().tolist() == [0, 1, 2, 3]
    assert scores["clusters/3"].unique().tolist() == [0]  # the elbow's: a quarter of five filters
    last = int(scores["0"].argmax())
    best = [scores["contribution/0"][scores["clusters/0"] == c].max() for c in range(4)]
    assert scores["contribution/0"][last] == max(best)  # the last to go is the best of all clusters
    with pytest.raises(WrongClusters, match="no layer 'conv9'"):
        Functionality(clusters={"conv9": 4}).scores(model, job)
    with pytest.raises(WrongClusters, match="3 numbers for 2 layers: 0, 3"):
        Functionality(clusters=[1, 2, 3]).scores(model, job)


def test_clusters_can_be_written_in_a_search_space() -> None:
    parameters = METHODS.parameters("functionality")
    for clusters in ("elbow", "printed", [3, 4], {"conv1_1": 15}):
        parameters.model_validate({"clusters": clusters})
    with pytest.raises(ValueError, match="clusters"):
        parameters.model_validate({"clusters": "gap"})


def test_transition_counts_filters_that_look_for_something_else() -> None:
    families = torch.arange(8) % 4
    dense = Linear(weights(4)[families] + 0.02 * weights(8, seed=1))
    start = shared_start(EXAMPLE, torch.Generator().manual_seed(0))
    patterns = patterns_of(dense, start)
    middles = {"conv": centroids(patterns, cluster(patterns, 4, restarts=3))}
    assert functionality_transition(dense, dense, middles, start) == {"conv": 0.0}
    after = Linear(dense.conv.weight.detach())
    with torch.no_grad():
        after.conv.weight[0] = dense.conv.weight[1]  # now of another family
        after.conv.weight[2] *= 3  # the same pattern, only stronger
        after.conv.weight[3] = dense.conv.weight[7]  # another filter of the same family
    assert functionality_transition(dense, after, middles, start) == {"conv": 0.125}
