"""One arithmetic thread: on two cores many small tests run several times faster so."""

import logging
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

if TYPE_CHECKING:
    from orchestrator.storage.bucket import Bucket


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Decoded images of the tests stay with the tests."""
    os.environ.setdefault("PRUNESWEEP_DATA_CACHE", str(tmp_path_factory.mktemp("data-cache")))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on this machine, with buckets in memory."""
    pytest.importorskip("s3fs", reason="stores in buckets need prunesweep[s3]")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    # One request at a time: moto looks whether an object is there, and makes it, in two steps.
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def bucket_uri(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a store in a new bucket; its local mirror is in the test's folder."""
    import s3fs

    settings = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PRUNESWEEP_STORES": str(tmp_path / "stores"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(name)
    return f"s3://{name}/runs"


@pytest.fixture
def bucket(bucket_uri: str) -> "Bucket":
    """The bucket at `bucket_uri`."""
    from orchestrator.storage.store import Store

    bucket = Store.open(bucket_uri).bucket
    assert bucket is not None
    return bucket
