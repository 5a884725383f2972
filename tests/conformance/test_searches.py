"""Every search of the table keeps the suite's promises."""

import pytest

from orchestrator.sweep.search import SEARCHES
from orchestrator.testing.searches import SearchSuite


@pytest.mark.parametrize("search_name", SEARCHES.names())
class TestSearches(SearchSuite):
    pass
