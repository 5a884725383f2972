"""Which networks of a plan are tried before the first trial, and the refusal of those that do not take their images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from orchestrator.spec.errors import SpecError
from orchestrator.spec.trial import TrialSpec
from orchestrator.sweep.driver.training_kinds import Network, networks, representative_trials
from orchestrator.sweep.planning import Plan


class UnfitModel(SpecError):
    """Networks that cannot take their data's images; the message names each with its place and the reason."""


def untried_networks(planned: Plan, waiting: Collection[str], is_trained: Callable[[TrialSpec], bool]) -> list[Network]:
    """Return the distinct networks of trials to come that have not been trained on their data yet."""
    candidates = networks(representative_trials(planned, waiting), planned.arms)
    return [network for network in candidates if not is_trained(network.spec)]


def refusals(specs: Sequence[TrialSpec]) -> list[str | None]:
    """Return for each trial why its network cannot take its images, or None; imports PyTorch."""
    from orchestrator.trial.shape_check import shape_error

    return [shape_error(spec) for spec in specs]


def raise_refused(networks: Sequence[Network], reasons: Sequence[str | None]) -> None:
    """Raise :class:`UnfitModel` for the networks that were refused, if any."""
    refused = [
        f"{network.where}: {network.spec.model.name!r} cannot take {reason}"
        for network, reason in zip(networks, reasons, strict=True)
        if reason is not None
    ]
    if refused:
        raise UnfitModel("", "; ".join(refused))
