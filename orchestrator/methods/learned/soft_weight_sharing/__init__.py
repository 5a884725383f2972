"""Soft weight-sharing (Ullrich et al. 2017)."""

from orchestrator.methods.learned.soft_weight_sharing.method import SoftWeightSharing

__all__ = ["SoftWeightSharing"]
