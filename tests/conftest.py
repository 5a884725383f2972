"""One arithmetic thread: on two cores many small tests run several times faster so."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Decoded images of the tests stay with the tests."""
    os.environ.setdefault("PRUNESWEEP_DATA_CACHE", str(tmp_path_factory.mktemp("data-cache")))
