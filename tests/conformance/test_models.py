"""Every network of the table passes the conformance suite."""

import pytest

from orchestrator.models import MODELS
from orchestrator.testing.models import ModelSuite


@pytest.mark.parametrize("model_name", MODELS.names())
class TestModels(ModelSuite):
    pass
