"""Every method of the table passes the conformance suite."""

import pytest

from orchestrator.methods import METHODS
from orchestrator.testing.methods import MethodSuite


@pytest.mark.parametrize("method_name", METHODS.names())
class TestMethods(MethodSuite):
    pass
