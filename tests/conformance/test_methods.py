"""Every method of the table keeps the suite's promises."""

import pytest

from orchestrator.methods import METHODS
from orchestrator.testing.methods import MethodSuite


@pytest.mark.parametrize("method_name", METHODS.names())
class TestMethods(MethodSuite):
    pass
