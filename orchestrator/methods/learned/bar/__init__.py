"""BAR: budget-aware regularization (Lemaire et al. 2019)."""

from orchestrator.methods.learned.bar.method import BAR

__all__ = ["BAR"]
