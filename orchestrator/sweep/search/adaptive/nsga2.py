"""NSGA-II."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optuna.samplers import BaseSampler, NSGAIISampler

from orchestrator.sweep.search.adaptive.ask_tell import OptunaSearch


@dataclass(frozen=True)
class NSGA2(OptunaSearch):
    """NSGA-II: an evolving population, for several objectives."""

    @property
    def population(self) -> int:
        """A quarter of the trials, from 10 to 50, so that there are at least four generations."""
        return max(10, min(50, self.trials // 4))

    def sampler(self, n_objectives: int, seed: int) -> BaseSampler:
        return NSGAIISampler(population_size=self.population, seed=seed)

    def system_attrs(self, n_complete: int) -> dict[str, Any]:
        # Recorded trials count as the generations before, so that evolution goes on from them.
        return {NSGAIISampler._get_generation_key(): n_complete // self.population}
