"""The table of retraining schedules: pure functions of the dense recipe and a budget."""

from orchestrator.plugins import Registry

SCHEDULES = Registry(
    kind="retraining schedule",
    group="orchestrator.schedules",
    table={
        "fine_tune": "orchestrator.retrain.fine_tune:fine_tune",
        "clr": "orchestrator.retrain.clr:clr",
        "lr_rewind": "orchestrator.retrain.lr_rewind:lr_rewind",
        "scaled_restart": "orchestrator.retrain.scaled_restart:scaled_restart",
        "scratch_e": "orchestrator.retrain.scratch_e:scratch_e",
        "scratch_b": "orchestrator.retrain.scratch_b:scratch_b",
    },
    supplied=frozenset({"baseline", "budget"}),
    open_names=True,
)
