"""Objects of a bucket by their paths in the mirror: created once, downloaded where they are missing; and leases."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.spec.errors import SpecError
from orchestrator.spec.failures import StoreAway
from orchestrator.storage import lease as leases
from orchestrator.storage.bucket import Bucket
from orchestrator.storage.lease import Holder, LeaseHeld, acquire_lease, holder_of, lease_folder
from orchestrator.storage.object_info import ObjectInfo, object_info_of
from orchestrator.storage.store import Store
from orchestrator.storage.uri import mirror_of, store_folder, uri_of


@pytest.fixture
def store(bucket_uri: str) -> Store:
    return Store.open(bucket_uri)


@pytest.fixture
def out(store: Store) -> Path:
    return store.folder


@pytest.fixture
def bucket(store: Store) -> Bucket:
    assert store.bucket is not None
    return store.bucket


def test_a_path_of_the_mirror_names_an_object_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNESWEEP_STORES", str(tmp_path))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert mirror_of("s3://mine/a/b") == mirror_of("s3://mine/a") / "b" == tmp_path / "s3/mine/a/b"
    for uri in ("s3://mine", "gs://mine.other/runs", "s3://mine/a/b=1"):
        assert uri_of(mirror_of(uri)) == uri
        assert store_folder(uri + "/") == mirror_of(uri)
    assert uri_of(tmp_path) is None
    assert uri_of(Path("/elsewhere")) is None
    assert Store.open("runs").address == "runs"
    store = Store.open("s3://mine/a")
    assert store.address == "s3://mine/a"
    assert store.address_of(store.folder / "b/c.json") == "s3://mine/a/b/c.json"
    assert Store.open(store.folder).address == store.address
    # A bucket of the same name on another server is another bucket.
    mirror = mirror_of("s3://mine/a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio.lan:9000")
    assert mirror_of("s3://mine/a") == tmp_path / "s3-minio.lan_9000/mine/a"
    with pytest.raises(SpecError, match="another server"):
        uri_of(mirror)


@pytest.mark.parametrize(
    "uri",
    ["s3://", "s3:/mine", "s3://Mine/a", "s3://mine/../b", "s3://mine/a/.", "s3://mine//a", "ftp://mine/a",
     "s3://mine/a?x=1", "s3://AKIA:hunter2@mine/a", "s3://mine/a b"],
)  # fmt: skip
def test_other_uris_are_refused_without_their_secrets(uri: str) -> None:
    with pytest.raises(SpecError, match="--out: must be a folder, s3://BUCKET/PREFIX or gs://") as refused:
        store_folder(uri)
    assert "hunter2" not in str(refused.value)


def test_of_eight_that_make_one_object_one_wins(store: Store, out: Path, bucket: Bucket) -> None:
    gate = threading.Barrier(8)

    def make(number: int) -> bool:
        gate.wait()
        return store.write_once(out / "sweep/trials/a/result.json", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(make, range(8)))
    assert won.count(True) == 1
    stands = str(won.index(True)).encode()
    assert bucket.read(out / "sweep/trials/a/result.json") == stands
    assert (out / "sweep/trials/a/result.json").read_bytes() == stands
    assert [path.name for path in (out / "sweep/trials/a").iterdir()] == ["result.json"]


def test_an_object_made_by_a_first_try_that_was_not_answered_is_ones_own(out: Path, bucket: Bucket) -> None:
    assert bucket.create(out / "a", b"mine")
    assert bucket.create(out / "a", b"mine")
    assert not bucket.create(out / "a", b"another's")


def test_what_lacks_is_fetched_and_what_is_gone_goes(store: Store, out: Path, bucket: Bucket) -> None:
    folder = out / "sweep"
    for name in ("a", "b", "c"):
        with store.replacing(folder / name) as temporary:
            temporary.write_text(name)
    sent: list[str] = []

    def fetch() -> None:
        before = {path: path.stat().st_ino for path in folder.glob("*")}
        bucket.download(folder, lambda name: name != "c", lambda name: True)
        sent[:] = [path.name for path in sorted(folder.glob("*")) if before.get(path) != path.stat().st_ino]

    fetch()
    assert sent == []  # all are here, by what they hold
    (folder / "a").unlink()
    (folder / "c").unlink()
    fetch()
    assert sent == ["a"]
    fetch()
    assert sent == []  # and now by its time
    bucket.write(folder / "b", b"B")
    fetch()
    assert sent == ["b"]
    assert (folder / "b").read_text() == "B"
    bucket.delete(folder / "a")
    (folder / "just written").write_text("")
    fetch()
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "just written"]
    os.utime(folder / "a")
    time.sleep(1.2)
    fetch()
    assert [path.name for path in folder.iterdir()] == ["b"]


def test_a_folder_is_taken_whole_or_not_at_all(out: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = out / "cache/baseline/0123456789ab"
    assert not bucket.download_folder(folder)
    bucket.write(folder / "one", b"1")
    bucket.write(folder / "two", b"2")
    folder.mkdir(parents=True)
    (folder / "one").write_bytes(b"damaged")
    with monkeypatch.context() as broken:
        broken.setattr(os, "utime", lambda *words: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            bucket.download_folder(folder)
    assert [path.name for path in folder.iterdir()] == ["one"]
    assert bucket.download_folder(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"one": b"1", "two": b"2"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert sorted(bucket.list_objects(folder)) == ["one", "two"]
    bucket.write(folder.with_name("0123456789abc") / "neighbour", b"")
    bucket.delete_folder(folder)
    assert sorted(bucket.list_objects(folder.parent)) == ["0123456789abc/neighbour"]
    assert bucket.list_folders(out) == ["cache"]


def test_a_bucket_that_is_not_there_is_named(out: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.check(out)
    assert bucket.list_objects(out) == {}
    missing = Store.open("s3://never-made/runs")
    assert missing.bucket is not None
    with pytest.raises(StoreAway, match="s3://never-made"):
        missing.bucket.check(missing.folder)


def test_a_server_that_writes_over_what_exists_is_refused(
    out: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = bucket._system.pipe_file
    monkeypatch.setattr(bucket._system, "pipe_file", lambda key, data, mode="overwrite": always(key, data))
    with pytest.raises(StoreAway, match="writes over what exists"):
        bucket.check(out)


def test_a_lease_has_one_holder_and_falls_when_it_is_released(out: Path, bucket: Bucket) -> None:
    path = out / "sweep/.driver"
    assert holder_of(bucket, path) is None
    with acquire_lease(bucket, path, wait=False):
        held = holder_of(bucket, path)
        assert held is not None
        assert held.pid == os.getpid()
        with pytest.raises(LeaseHeld, match=f"pid {os.getpid()}; last heard of . s ago"), \
             acquire_lease(bucket, path, wait=False):  # fmt: skip
            pass
    assert holder_of(bucket, path) is None
    with acquire_lease(bucket, path, wait=False):
        pass
    # It is told by numbers that only grow; of those before nothing is left.
    assert sorted(bucket.list_objects(out / "sweep/.driver.lease")) == ["00000002"]


def test_eight_that_want_a_lease_have_it_one_after_another(
    out: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_POLL_SECONDS", 0.02)
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        with acquire_lease(bucket, out / "cache/baseline/0123456789ab"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == [1] * 8


def dead(**changes: object) -> Holder:
    return Holder(**{"host": "other", "pid": 1, "machine": "another one", "started": "1", "token": "t", **changes})


def leave(bucket: Bucket, path: Path, holder: Holder) -> None:
    bucket.write(lease_folder(path) / "00000007", leases._encode(holder))


def test_a_lease_that_nobody_renews_is_taken_over(out: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    path = out / "sweep/.driver"
    leave(bucket, path, dead())
    with pytest.raises(LeaseHeld, match="host other, pid 1; last heard of"), acquire_lease(bucket, path, wait=False):
        pass
    monkeypatch.setattr(leases, "SECONDS", 1.0)
    monkeypatch.setattr(leases, "_POLL_SECONDS", 0.1)
    with acquire_lease(bucket, path, wait=True) as is_lost:
        assert sorted(bucket.list_objects(lease_folder(path))) == ["00000008"]
        time.sleep(2.5)
        assert holder_of(bucket, path) is not None  # it is renewed
        assert not is_lost()
        # As after a pause of this process: somebody has come meanwhile.
        monkeypatch.setattr(leases, "SECONDS", 0.0)
        bucket.create(lease_folder(path) / "00000009", leases._encode(dead()))
        time.sleep(1.0)
        assert is_lost()
    assert bucket.read(lease_folder(path) / "00000009") == leases._encode(dead())


def test_a_lease_of_a_process_that_this_machine_knows_to_be_gone_is_taken_at_once(out: Path, bucket: Bucket) -> None:
    path = out / "sweep/.driver"
    own = Holder.here()
    leave(bucket, path, dead(machine=own.machine, pid=own.pid, started="0"))  # its number is another's by now
    with acquire_lease(bucket, path, wait=False):
        pass


def test_the_clock_is_the_buckets_own(out: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "_clock_offset", None)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert bucket.now(out / "a") > 1e9
    assert bucket.list_objects(out) == {}


def test_who_has_patience_waits_once_for_a_bucket_that_is_away(
    out: Path, bucket: Bucket, bucket_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    answers = iter([ConnectionError("reset"), TimeoutError("slow")])
    send = bucket._system.pipe_file

    def failing(*words: object, **more: object) -> object:
        for problem in answers:
            raise problem
        return send(*words, **more)

    monkeypatch.setattr(bucket._system, "pipe_file", failing)
    patient = Store.open(bucket_uri, patience=60.0).bucket
    assert patient is not None
    patient.write(out / "a", b"1")
    assert slept == [1.0, 2.0]
    assert bucket.read(out / "a") == b"1"
    hasty = Store.open(bucket_uri, patience=0.5).bucket
    assert hasty is not None
    for problem in (ConnectionError("reset"), PermissionError("no")):
        answers = iter([problem])
        with pytest.raises(StoreAway, match=f"s3://.*: {problem}"):
            hasty.write(out / "a", b"1")
    answers = iter([ConnectionError("reset")])
    with pytest.raises(StoreAway, match="reset"):
        patient.check(out)  # a person waits for it
    assert slept == [1.0, 2.0]


def test_facts_of_objects_are_read_as_each_library_tells_them() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    amazon = {
        "name": "b/a",
        "size": 3,
        "type": "file",
        "ETag": '"900150983cd24fb0d6963f7d28e17f72"',
        "LastModified": when,
    }
    expected = ObjectInfo(3, float(int(when.timestamp())), hashlib.md5(b"abc").hexdigest())
    assert object_info_of(amazon) == expected
    google = {"name": "b/a", "size": 3, "type": "file", "etag": "CJ=", "md5Hash": "kAFQmDzST7DWlj99KOF/cg=="}
    assert object_info_of(google | {"mtime": when}) == expected
    assert object_info_of(google | {"updated": "2026-01-02T03:04:05.678Z"}) == expected
    parts = amazon | {"ETag": '"900150983cd24fb0d6963f7d28e17f72-2"'}
    assert object_info_of(parts).md5 == ""


def test_a_holder_of_another_version_is_a_holder(out: Path, bucket: Bucket) -> None:
    path = out / "sweep/.driver"
    bucket.write(lease_folder(path) / "00000003", b'{"written": "later"}')
    with pytest.raises(LeaseHeld, match="host unknown"), acquire_lease(bucket, path, wait=False):
        pass


def test_a_store_may_be_a_whole_bucket(bucket_uri: str) -> None:
    store = Store.open(bucket_uri.rpartition("/")[0])
    out, bucket = store.folder, store.bucket
    assert bucket is not None
    assert bucket.list_objects(out) == {}
    bucket.check(out / "sweep")
    store.write_once(out / "sweep/a", b"1")
    assert list(bucket.list_objects(out)) == ["sweep/a"]
    assert bucket.list_folders(out) == ["sweep"]
    bucket.download(out / "sweep", lambda name: True, lambda name: True)
    bucket.delete_folder(out)
    assert bucket.list_objects(out) == {}


class LostReply:
    """A file system of which the first reply to a deletion is lost, after it was carried out."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.is_lost = True

    def pipe_file(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def info(self, key: str) -> dict[str, object]:
        return {"size": len(self.objects[key]), "LastModified": datetime.fromtimestamp(1e9, UTC)}

    def rm_file(self, key: str) -> None:
        if key not in self.objects:
            raise FileNotFoundError(key)
        del self.objects[key]
        if self.is_lost:
            self.is_lost = False
            raise ConnectionError("the reply is lost")


def test_a_lost_reply_to_the_deletion_of_a_probe_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    system = LostReply()
    bucket = Bucket(system, "gs://mine", tmp_path, patience=5.0)
    assert bucket.now(tmp_path / "runs/sweep") == pytest.approx(1e9, abs=60)
    assert system.objects == {}
