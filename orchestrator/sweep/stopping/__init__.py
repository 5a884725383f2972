"""The table of stoppers: rules that end weak trials early; one file and one line each."""

from orchestrator.plugins import Registry

STOPPERS = Registry(
    kind="stopper",
    group="orchestrator.stoppers",
    table={
        "asha": "orchestrator.sweep.stopping.asha:Asha",
        "median": "orchestrator.sweep.stopping.median:Median",
        "moasha": "orchestrator.sweep.stopping.moasha:Moasha",
        "constraint": "orchestrator.sweep.stopping.constraint:Constraint",
    },
    open_names=True,
    base="orchestrator.sweep.stopping.rule:StoppingRule",
)
