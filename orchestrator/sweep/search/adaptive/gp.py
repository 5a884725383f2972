"""Bayesian optimisation with a Gaussian process."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.samplers import BaseSampler, GPSampler

from orchestrator.sweep.search.adaptive.ask_tell import OptunaSearch


@dataclass(frozen=True)
class GaussianProcess(OptunaSearch):
    """A Gaussian process and its expected improvement: for few, long trials."""

    def sampler(self, n_objectives: int, seed: int) -> BaseSampler:
        return GPSampler(seed=seed, warn_independent_sampling=False)
