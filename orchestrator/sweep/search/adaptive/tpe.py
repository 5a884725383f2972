"""The tree-structured Parzen estimator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optuna.samplers import BaseSampler, TPESampler

from orchestrator.sweep.search.adaptive.ask_tell import OptunaSearch


@dataclass(frozen=True)
class TPE(OptunaSearch):
    """Tree-structured Parzen estimator: draws where good trials were dense; one or several objectives."""

    joint: ClassVar[bool] = False

    def sampler(self, n_objectives: int, seed: int) -> BaseSampler:
        # Groups let one estimator cover arms with axes of their own. With several objectives Optuna's own choice,
        # one parameter at a time, needs no groups.
        return TPESampler(seed=seed, group=n_objectives == 1)
