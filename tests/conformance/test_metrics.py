"""Every metric of the table keeps the suite's promises, and so does one of the user's own."""

import pytest

from orchestrator.metrics.extra import ExtraMetric, Networks
from orchestrator.metrics.table import EXTRA_METRICS
from orchestrator.spec.metric import METRICS
from orchestrator.testing.metrics import MetricSuite


class Depth(ExtraMetric):
    """Modules of the pruned network."""

    label = "modules"
    higher_is_better = False

    def compute(self, networks: Networks) -> float:
        return len(list(networks.pruned.modules()))


@pytest.mark.parametrize("metric_name", [*METRICS, *EXTRA_METRICS.names()])
class TestMetrics(MetricSuite):
    pass
