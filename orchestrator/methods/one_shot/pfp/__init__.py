"""Provable filter pruning (PFP, Liebenwein et al. 2020), the deterministic form."""

from orchestrator.methods.one_shot.pfp.method import PFP

__all__ = ["PFP"]
