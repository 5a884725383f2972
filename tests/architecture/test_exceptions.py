"""Every exception that the package defines derives from `PrunesweepError`."""

import importlib
import pkgutil

import pytest

import orchestrator
from orchestrator import PrunesweepError


def test_every_exception_has_the_common_base() -> None:
    exceptions = set()
    for module in pkgutil.walk_packages(orchestrator.__path__, "orchestrator."):
        if module.name == "orchestrator.__main__":  # it runs the command line
            continue
        defined = vars(importlib.import_module(module.name)).values()
        classes = [value for value in defined if isinstance(value, type) and value.__module__ == module.name]
        exceptions |= {cls for cls in classes if issubclass(cls, BaseException)}
    assert len(exceptions) > 40
    assert not [cls for cls in exceptions if not issubclass(cls, PrunesweepError)]


def test_one_handler_catches_a_bad_search_space() -> None:
    with pytest.raises(PrunesweepError, match="questoin"):
        orchestrator.SearchSpace.parse({"name": "typo", "questoin": "why?"})
