"""Functionality-oriented filter pruning (Qin et al. 2018)."""

from orchestrator.methods.one_shot.functionality.method import Functionality

__all__ = ["Functionality"]
