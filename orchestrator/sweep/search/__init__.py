"""The table of searches: how points are taken from the axes; one file and one line each."""

from orchestrator.plugins import Registry

SEARCHES = Registry(
    kind="search",
    group="orchestrator.searches",
    table={
        "grid": "orchestrator.sweep.search.grid:Grid",
        "random": "orchestrator.sweep.search.random:Random",
        "qmc": "orchestrator.sweep.search.qmc:QuasiMonteCarlo",
        "sobol": "orchestrator.sweep.search.sobol:Sobol",
        "morris": "orchestrator.sweep.search.morris:Morris",
        "tpe": "orchestrator.sweep.search.adaptive.tpe:TPE",
        "nsga2": "orchestrator.sweep.search.adaptive.nsga2:NSGA2",
        "gp": "orchestrator.sweep.search.adaptive.gp:GaussianProcess",
    },
    open_names=True,
)
