"""Columns, order and charts of a sweep's runs in MLflow's user interface, as a shared view of its page."""

from __future__ import annotations

import json
from collections.abc import Mapping

from orchestrator.records.mlflow.payload import metric_name

SHARE_KEY = "prunesweep"
PAGE = "workflowType=machine_learning"
"""Query of a URL: the page of trained models, not that of language applications which MLflow 3 opens by default."""
_KIND = "custom_model_development"
_COLUMNS = (
    "tags.`trial_id`",
    "params.`method`",
    "params.`target.sparsity`",
    "params.`retrain`",
    "params.`seed`",
    "metrics.`val_accuracy`",
    "metrics.`accuracy`",
    "metrics.`dense_accuracy`",
    "metrics.`macs`",
    "metrics.`params`",
    "metrics.`latency_ms`",
)
_LONGEST_TAG = 5000


def view_tags(objectives: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of an experiment of trained models that ranks by validation accuracy and has a shared view.

    MLflow's page reads the view for ``?viewStateShareKey=`` (seen in MLflow 3.17); other releases ignore it.
    """
    view = json.dumps(_view(objectives), separators=(",", ":"))
    tags = {
        "mlflow.experimentKind": _KIND,
        "mlflow.experiment.primaryMetric.name": "val_accuracy",
        "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
        f"mlflow.sharedViewState.{SHARE_KEY}": view,
    }
    return {name: text for name, text in tags.items() if len(text) <= _LONGEST_TAG}


def _view(objectives: Mapping[str, str]) -> dict[str, object]:
    """Return the state of the page: filters, order, columns and charts."""
    more = [f"metrics.`{metric_name(name)}`" for name in objectives]
    costs = [name for name in ("macs", "params", "latency_ms", *objectives) if name != "accuracy"]
    charts = [_scatter(name) for name in dict.fromkeys(costs) if name not in ("val_accuracy", "dense_accuracy")]
    return {
        "searchFilter": "",
        "orderByKey": "metrics.`val_accuracy`",
        "orderByAsc": False,
        "selectedColumns": list(dict.fromkeys([*_COLUMNS, *more])),
        "compareRunSections": [
            {"uuid": "trade-offs", "name": "Accuracy against cost", "display": True, "isReordered": False}
        ],
        "compareRunCharts": charts,
    }


def _scatter(cost: str) -> dict[str, object]:
    return {
        "type": "SCATTER",
        "uuid": f"accuracy-{cost}",
        "isGenerated": False,
        "deleted": False,
        "metricSectionId": "trade-offs",
        "runsCountToCompare": 100,
        "xaxis": {"key": metric_name(cost), "type": "METRIC"},
        "yaxis": {"key": "accuracy", "type": "METRIC"},
    }
