"""The table of pruning methods: one file and one line each."""

from orchestrator.plugins import Registry

METHODS = Registry(
    kind="method",
    group="orchestrator.methods",
    table={
        "random": "orchestrator.methods.one_shot.random:Random",
        "l1_norm": "orchestrator.methods.one_shot.l1_norm:L1Norm",
        "taylor": "orchestrator.methods.one_shot.taylor:Taylor",
        "magnitude": "orchestrator.methods.one_shot.magnitude:Magnitude",
        "sfp": "orchestrator.methods.dynamic.sfp:SoftFilterPruning",
        "network_slimming": "orchestrator.methods.learned.network_slimming:NetworkSlimming",
    },
)
