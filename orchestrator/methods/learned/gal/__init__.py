"""GAL: generative adversarial learning of what to prune (Lin et al. 2019)."""

from orchestrator.methods.learned.gal.method import GAL

__all__ = ["GAL"]
