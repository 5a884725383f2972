"""Tables of plug-ins, read statically, so that naming a thing does not import it."""

from orchestrator.plugins.definitions import UnknownName
from orchestrator.plugins.registry import Registry
from orchestrator.plugins.source import Description, Parameter, UnusablePlugin
from orchestrator.plugins.vocabulary import Count, Natural, NonNegative, OpenShare, Positive, Share, validator

__all__ = [
    "Count",
    "Description",
    "Natural",
    "NonNegative",
    "OpenShare",
    "Parameter",
    "Positive",
    "Registry",
    "Share",
    "UnknownName",
    "UnusablePlugin",
    "validator",
]
