"""Activation maximisation: the input pattern that a filter responds to most, and clusters of filters by pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans, ward_tree
from torch import Tensor, nn

from orchestrator.methods.base import Channels, filters, norms
from orchestrator.spec.errors import PrunesweepError
from orchestrator.surgery.groups import ChannelGroup

_START_SPREAD = 0.1
_PIXELS_AT_ONCE = 2**21
_FEWEST, _FILTERS_PER_CLUSTER = 5, 4


def filter_site(group: ChannelGroup, model: nn.Module) -> tuple[str, Channels]:
    """Return the layer whose output is taken as the response of the group's filters, and the channels of each unit
    there.

    The first layer that produces the channels (where several do, it represents the group), or the batch-norm behind it:
    before any activation, so that no gradient is cut off.
    """
    root, _, channels = next(filters(group, model))
    normalised = {name: (name, units) for name, _, units in norms(group, model)}
    for member in group.members:
        if member.layer in normalised:
            return normalised[member.layer]
        if member.axis == "out" and member.layer != root:
            break  # later members belong to another layer of the group
    return root, channels


def shared_start(example: Tensor, generator: torch.Generator) -> Tensor:
    """Return the noise image N(0, 0.1) that all filters start from, of the shape of ``example``: (1, channels, height,
    width)."""
    return torch.randn(example.shape, generator=generator).to(example) * _START_SPREAD


def filter_patterns(
    model: nn.Module, group: ChannelGroup, start: Tensor, *, ascent_steps: int, step_size: float
) -> Tensor:
    """Return the pattern of each unit's filter: by gradient ascent on the spatial mean of its response, in eval mode.

    Every step adds ``step_size`` times the gradient divided by its root mean square. ``start``: (1, channels, height,
    width), the same for all units: distances between patterns are taken pixel by pixel, and different noise would
    dominate them. Returns (units, channels * height * width), each row of mean 0 and variance 1.

    Paper 000, section 1.1 step 1: V(F_i) = argmax_X A_i(X), X <- X + eta dA_i/dX.
    """
    layer, channels = filter_site(group, model)
    training = model.training
    model.eval()
    at_once = max(1, _PIXELS_AT_ONCE // start.numel())
    images: list[Tensor] = []
    for first in range(0, group.size, at_once):
        units = channels[first : first + at_once]
        image = start.detach().repeat(len(units), 1, 1, 1)
        for _ in range(ascent_steps):
            image.requires_grad_()
            (gradient,) = torch.autograd.grad(_responses(model, layer, units, image).sum(), image)
            size = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
            image = image.detach() + step_size * gradient / size.clamp_min(torch.finfo(size.dtype).tiny)
        images.append(image.detach())
    model.train(training)
    flat = torch.cat(images).flatten(1)
    return (flat - flat.mean(1, keepdim=True)) / flat.std(1, correction=0, keepdim=True)


def cluster(patterns: Tensor, count: int | None, *, restarts: int) -> Tensor:
    """Return the labels of k-means by squared distance, with k-means++ and a fixed seed.

    ``patterns``: (units, pixels); returns (units,), numbered from 0. ``count`` None: the elbow (`elbow`). At most as
    many clusters as units, none of them empty.
    """
    points = _same_distances(patterns)
    clusters = min(elbow(points) if count is None else count, len(points))
    labels = KMeans(clusters, n_init=restarts, random_state=0).fit(points).labels_
    return torch.from_numpy(np.unique(labels, return_inverse=True)[1].astype(np.int64))


def elbow(points: NDArray[np.float64]) -> int:
    """Return the number of clusters, from 5 to a quarter of the points, at the elbow of their sum of squares.

    The elbow is the largest second difference, of equals the first. The sums come from Ward's tree, in which a merge at
    height h adds h^2 / 2: k-means for every number would take most of an hour for a layer of 512 filters. Fewer than
    20 points: a quarter of them, at least one.
    """
    most = max(1, len(points) // _FILTERS_PER_CLUSTER)
    least = min(_FEWEST, most)
    if least == most:
        return most
    heights = ward_tree(points, return_distance=True)[4]
    added: NDArray[np.float64] = np.sort(np.asarray(heights, dtype=np.float64) ** 2 / 2)[::-1]  # at 2 -> 1, 3 -> 2, ...
    bend = added[least - 2 : most - 1] - added[least - 1 : most]
    return least + int(bend.argmax())


def centroids(patterns: Tensor, labels: Tensor) -> Tensor:
    """Return the clusters' mean patterns. patterns: (units, pixels), labels: (units,); returns (clusters, pixels)."""
    return torch.stack([patterns[labels == label].mean(0) for label in range(int(labels.max()) + 1)])


class _Reached(PrunesweepError):
    """Ends a forward pass once the layer has been run."""


def _responses(model: nn.Module, layer: str, units: Channels, images: Tensor) -> Tensor:
    """Return unit i's response to image i: the mean over positions, summed over the unit's channels. Shape (units,)."""
    means: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        means.append(output.flatten(2).mean(2) if output.dim() > 2 else output)
        raise _Reached

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        model(images)
    except _Reached:
        pass
    finally:
        handle.remove()
    index = torch.tensor([list(unit) for unit in units], device=images.device)
    return means[0].gather(1, index).sum(1)


def _same_distances(patterns: Tensor) -> NDArray[np.float64]:
    """Return points with the distances of the patterns, in as many coordinates as there are patterns."""
    points = patterns.detach().double().cpu()
    if points.shape[1] > points.shape[0]:
        rotated, sizes, _ = torch.linalg.svd(points - points.mean(0), full_matrices=False)
        points = rotated * sizes
    array: NDArray[np.float64] = points.numpy()
    return array
