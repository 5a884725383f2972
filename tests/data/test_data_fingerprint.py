"""The identity of an image set: independent of its path, different when its files change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator.data
from orchestrator.data.fingerprint import UnreadableData, fingerprint, identity
from orchestrator.data.images import cache_key


def files(root: Path) -> Path:
    (root / "train" / "a").mkdir(parents=True)
    (root / "train" / "a" / "0.png").write_bytes(b"0" * 300_000)
    (root / "train" / "a" / "1.png").write_bytes(b"one")
    return root


def test_the_same_files_elsewhere_are_the_same(tmp_path: Path) -> None:
    first = files(tmp_path / "here")
    shutil.copytree(first, tmp_path / "there")
    (tmp_path / "link").symlink_to(first, target_is_directory=True)
    assert len(fingerprint(first)) == 16
    assert fingerprint(first) == fingerprint(tmp_path / "there") == fingerprint(tmp_path / "link")
    (first / ".DS_Store").write_bytes(b"left by a file manager")
    assert fingerprint(first) == fingerprint(tmp_path / "there")


@pytest.mark.parametrize("change", ["name", "size", "start", "end", "extra"])
def test_a_change_of_name_size_or_edges_shows(tmp_path: Path, change: str) -> None:
    root = files(tmp_path / "set")
    before = fingerprint(root)
    file = root / "train" / "a" / "0.png"
    content = file.read_bytes()
    match change:
        case "name":
            file.rename(file.with_name("2.png"))
        case "size":
            file.write_bytes(content + b"0")
        case "start":
            file.write_bytes(b"1" + content[1:])
        case "end":
            file.write_bytes(content[:-1] + b"1")
        case "extra":
            (root / "more.png").write_bytes(b"")
    assert fingerprint(root) != before


def test_of_many_files_the_names_and_sizes_count(tmp_path: Path) -> None:
    for i in range(1003):
        (tmp_path / f"{i:04}").write_bytes(b"a")
    before = fingerprint(tmp_path)
    (tmp_path / "1002").write_bytes(b"b")
    assert fingerprint(tmp_path) == before
    (tmp_path / "1002").write_bytes(b"bb")
    assert fingerprint(tmp_path) != before


def test_a_single_file_and_linked_folders(tmp_path: Path) -> None:
    root = files(tmp_path / "set")
    (root / "loop").symlink_to(root, target_is_directory=True)
    assert fingerprint(root) == fingerprint(files(tmp_path / "other"))
    assert fingerprint(root / "train" / "a" / "1.png") != fingerprint(root / "train" / "a" / "0.png")


def test_missing_empty_and_dangling_are_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableData, match=r"cannot read data '.*nowhere': No such file"):
        fingerprint(tmp_path / "nowhere")
    with pytest.raises(UnreadableData, match=f"'{tmp_path}': no files"):
        fingerprint(tmp_path)
    (tmp_path / "image.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UnreadableData, match=r"image\.png"):
        fingerprint(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_unreadable(tmp_path: Path) -> None:
    root = files(tmp_path / "set")
    (root / "train").chmod(0)
    try:
        with pytest.raises(UnreadableData, match="train"):
            fingerprint(root)
    finally:
        (root / "train").chmod(0o755)


def test_identity_leaves_out_paths_defaults_and_downloading(tmp_path: Path) -> None:
    first, copy = files(tmp_path / "first"), files(tmp_path / "copy")
    assert identity("parquet", {"path": str(first)}) == identity("parquet", {"path": str(copy), "size": None})
    assert identity("parquet", {"path": str(first)}) != identity("parquet", {"path": str(first), "size": 8})
    assert identity("digits", {}) == identity("digits", {"size": 8}) != identity("digits", {"size": 16})
    # A published set is identified by its name, whether or not its files exist.
    absent = str(tmp_path / "absent")
    assert identity("cifar10", {"path": absent, "download": True}) == {"name": "cifar10", "params": {}}
    # Its decoded copy depends on the path: a damaged copy must not replace a good one elsewhere.
    assert cache_key("cifar10", {"path": str(first)}) != cache_key("cifar10", {"path": str(copy)})
    assert cache_key("parquet", {"path": str(first)}) == cache_key("parquet", {"path": str(copy)})


def test_planning_needs_no_array_library() -> None:
    heavy = ("torch", "numpy", "PIL", "pyarrow", "torchvision", "sklearn")
    code = f"import sys, orchestrator.data.fingerprint; print([m for m in {heavy!r} if m in sys.modules])"
    root = str(Path(orchestrator.data.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
