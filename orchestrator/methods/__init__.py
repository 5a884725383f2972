"""The table of pruning methods: one file and one line each."""

from orchestrator.plugins import Registry

METHODS = Registry(
    kind="method",
    group="orchestrator.methods",
    base="orchestrator.methods.base:Method",
    table={
        "random": "orchestrator.methods.one_shot.random:Random",
        "l1_norm": "orchestrator.methods.one_shot.l1_norm:L1Norm",
        "taylor": "orchestrator.methods.one_shot.taylor:Taylor",
        "magnitude": "orchestrator.methods.one_shot.magnitude:Magnitude",
        "lwc": "orchestrator.methods.one_shot.lwc:LearningWeightsAndConnections",
        "obd": "orchestrator.methods.one_shot.obd:OptimalBrainDamage",
        "layer_obs": "orchestrator.methods.one_shot.layer_obs:LayerwiseOptimalBrainSurgeon",
        "mlprune": "orchestrator.methods.one_shot.mlprune:MLPrune",
        "functionality": "orchestrator.methods.one_shot.functionality:Functionality",
        "hrank": "orchestrator.methods.one_shot.hrank:HRank",
        "pfp": "orchestrator.methods.one_shot.pfp:PFP",
        "sfp": "orchestrator.methods.dynamic.sfp:SoftFilterPruning",
        "dns": "orchestrator.methods.dynamic.dns:DynamicNetworkSurgery",
        "fpgm": "orchestrator.methods.dynamic.fpgm:FPGM",
        "taylor_iterative": "orchestrator.methods.dynamic.taylor_iterative:TaylorIterative",
        "network_slimming": "orchestrator.methods.learned.network_slimming:NetworkSlimming",
        "mask_convnet": "orchestrator.methods.learned.mask_convnet:MaskConvNet",
        "bar": "orchestrator.methods.learned.bar:BAR",
        "gal": "orchestrator.methods.learned.gal:GAL",
        "dcp": "orchestrator.methods.learned.dcp:DCP",
        "autoprune": "orchestrator.methods.learned.autoprune:AutoPrune",
        "sparse_vd": "orchestrator.methods.learned.sparse_vd:SparseVariationalDropout",
        "soft_weight_sharing": "orchestrator.methods.learned.soft_weight_sharing:SoftWeightSharing",
    },
    open_names=True,
)
