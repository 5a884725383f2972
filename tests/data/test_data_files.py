"""Image sets from a user's own files: Parquet files and folders, whole and damaged."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from PIL import Image

from orchestrator.data import DATA
from orchestrator.data.decoding import map_in_threads
from orchestrator.data.image_folder import image_folder
from orchestrator.data.parquet import parquet
from orchestrator.data.source import CorruptImage, DataError, UnreadableData


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def pictures(count: int, shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    return list(np.random.RandomState(seed).randint(0, 256, (count, *shape)).astype(np.uint8))


def write(
    file: Path,
    images: Sequence[bytes | None],
    labels: Sequence[int | None],
    names: Sequence[str] | None = None,
    columns: tuple[str, str] = ("image", "label"),
    bare: bool = False,
) -> None:
    cells = list(images) if bare else [{"bytes": image, "path": None} for image in images]
    image_type = pyarrow.binary() if bare else pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table(
        {columns[0]: pyarrow.array(cells, image_type), columns[1]: pyarrow.array(labels, pyarrow.int64())}
    )
    if names is not None:
        features = {columns[1]: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def test_parquet_gives_the_pixels_labels_and_names_that_were_written(tmp_path: Path) -> None:
    images, labels = pictures(6, (9, 9, 3)), [0, 1, 2, 0, 1, 2]
    write(tmp_path / "train.parquet", [png(i) for i in images], labels, names=["ant", "bee", "cat"])
    write(tmp_path / "test.parquet", [png(i) for i in images[:3]], labels[:3], names=["ant", "bee", "cat"])
    source = parquet(str(tmp_path))
    assert (source.channels, source.size, source.classes) == (3, 9, ("ant", "bee", "cat"))
    assert source.augment == "crop_flip"
    examples = list(source.train())
    assert [label for _, label in examples] == labels
    for (decoded, _), written in zip(examples, images, strict=True):
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, written)
    assert len(list(source.test())) == 3


def test_grey_images_have_one_channel_and_are_not_augmented_unless_asked(tmp_path: Path) -> None:
    images = pictures(4, (8, 8))
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.parquet", [png(i) for i in images], [0, 1, 0, 1], bare=True)
    source = parquet(str(tmp_path))
    assert (source.channels, source.augment, source.classes) == (1, "none", ("0", "1"))
    np.testing.assert_array_equal(next(source.test())[0][:, :, 0], images[0])
    assert parquet(str(tmp_path), augment="crop").augment == "crop"


def test_numbered_parts_are_read_in_order_and_a_missing_one_is_refused(tmp_path: Path) -> None:
    images = [png(i) for i in pictures(4, (8, 8, 3))]
    write(tmp_path / "train-00000-of-00002.parquet", images[:2], [0, 1], columns=("img", "fine_label"))
    write(tmp_path / "train-00001-of-00002.parquet", images[2:], [2, 1], columns=("img", "fine_label"))
    write(tmp_path / "test-00000-of-00001.parquet", images, [0, 1, 2, 1], columns=("img", "fine_label"))
    source = parquet(str(tmp_path))
    assert [label for _, label in source.train()] == [0, 1, 2, 1]
    assert source.classes == ("0", "1", "2")
    (tmp_path / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(UnreadableData, match="one of 2 parts, but 1 are there"):
        parquet(str(tmp_path))


def test_a_corrupt_image_is_named_by_file_and_row(tmp_path: Path) -> None:
    images = [png(i) for i in pictures(20, (8, 8, 3))]
    write(tmp_path / "test.parquet", images, [0] * 20)
    write(tmp_path / "train.parquet", [*images[:17], b"not an image", *images[18:]], [0] * 20)
    with pytest.raises(CorruptImage) as caught:
        list(parquet(str(tmp_path)).train())
    assert str(caught.value) == f"corrupt image: {tmp_path / 'train.parquet'} row 17: cannot identify image file"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.row) == (str(caught.value), 17)


@pytest.mark.parametrize("damage", ["truncated", "empty", "null"])
def test_damaged_bytes_are_corrupt_images_too(tmp_path: Path, damage: str) -> None:
    images: list[bytes | None] = [png(i) for i in pictures(3, (32, 32, 3))]
    write(tmp_path / "test.parquet", images, [0] * 3)
    whole = images[2] or b""
    images[2] = {"truncated": whole[: len(whole) // 2], "empty": b"", "null": None}[damage]
    write(tmp_path / "train.parquet", images, [0] * 3)
    with pytest.raises(CorruptImage, match=r"train\.parquet row 2: "):
        list(parquet(str(tmp_path), size=32).train())


def test_images_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    images = [png(i) for i in [*pictures(2, (8, 8, 3)), *pictures(1, (12, 10, 3))]]
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", images, [0, 1, 0])
    with pytest.raises(DataError, match=r"row 2 is 10x12, others 8x8: give data\.size"):
        list(parquet(str(tmp_path)).train())
    assert [image.shape for image, _ in parquet(str(tmp_path), size=16).train()] == [(16, 16, 3)] * 3


def test_a_grey_image_among_coloured_ones_becomes_coloured(tmp_path: Path) -> None:
    images = [png(pictures(1, (8, 8))[0]), png(pictures(1, (8, 8, 3))[0])]
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", images, [0, 1])
    assert [image.shape for image, _ in parquet(str(tmp_path)).train()] == [(8, 8, 3)] * 2


def test_selected_classes_keep_the_requested_order(tmp_path: Path) -> None:
    images = [png(i) for i in pictures(6, (8, 8, 3))]
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", images, [0, 1, 2, 0, 1, 2], names=["ant", "bee", "cat"])
    source = parquet(str(tmp_path), classes=["cat", "ant"])
    assert source.classes == ("cat", "ant")
    assert [label for _, label in source.train()] == [1, 0, 1, 0]
    with pytest.raises(DataError, match=r"no class 'bees'; did you mean 'bee'\?"):
        parquet(str(tmp_path), classes=["bees"])


def test_missing_files_and_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableData, match="no folder"):
        parquet(str(tmp_path / "nowhere"))
    write(tmp_path / "train.parquet", [png(i) for i in pictures(2, (8, 8, 3))], [0, 1])
    with pytest.raises(UnreadableData, match=r"no test\*\.parquet"):
        parquet(str(tmp_path))
    write(tmp_path / "test.parquet", [b"x"], [0], columns=("picture", "label"))
    with pytest.raises(DataError, match="needs the columns image and label; it has picture, label"):
        list(parquet(str(tmp_path)).test())
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "test.parquet").write_bytes(whole[:-10])
    with pytest.raises(UnreadableData, match=r"test\.parquet"):
        list(parquet(str(tmp_path)).test())


def folder_of(root: Path, shapes: dict[str, tuple[int, ...]], splits: Sequence[str]) -> None:
    for split in splits:
        for k, (name, shape) in enumerate(shapes.items()):
            (root / split / name).mkdir(parents=True)
            for i, image in enumerate(pictures(2, shape, seed=k)):
                (root / split / name / f"{i}.png").write_bytes(png(image))


def test_image_folder_crops_the_middle_square(tmp_path: Path) -> None:
    folder_of(tmp_path, {"wide": (8, 16, 3), "grey": (8, 8)}, ["train", "val"])
    (tmp_path / "train" / "wide" / "notes.txt").write_text("not an image")
    source = image_folder(str(tmp_path), size=8)
    assert source.classes == ("grey", "wide")
    examples = list(source.train())
    assert [label for _, label in examples] == [0, 0, 1, 1]
    np.testing.assert_array_equal(examples[2][0], pictures(2, (8, 16, 3))[0][:, 4:12])
    np.testing.assert_array_equal(examples[0][0], np.repeat(pictures(2, (8, 8), seed=1)[0][:, :, None], 3, axis=2))
    assert [image.shape for image, _ in image_folder(str(tmp_path), size=12).test()] == [(12, 12, 3)] * 4
    assert [label for _, label in image_folder(str(tmp_path), size=8, classes=["wide"]).train()] == [0, 0]


def test_image_folder_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UnreadableData, match="train"):
        image_folder(str(tmp_path), size=8)
    folder_of(tmp_path, {"a": (8, 8, 3)}, ["train"])
    with pytest.raises(UnreadableData, match="neither"):
        image_folder(str(tmp_path), size=8)
    folder_of(tmp_path, {"a": (8, 8, 3), "b": (8, 8, 3)}, ["test"])
    with pytest.raises(DataError, match="class 'b' is in"):
        image_folder(str(tmp_path), size=8)
    (tmp_path / "train" / "a" / "1.png").write_bytes(b"nonsense")
    with pytest.raises(CorruptImage, match=r"^corrupt image: .*/train/a/1\.png: cannot identify image file$"):
        list(image_folder(str(tmp_path), size=8, classes=["a"]).train())


def test_sixteen_bit_images_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a": (8, 8, 3)}, ["train", "test"])
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / "train" / "a" / "0.png")
    with pytest.raises(CorruptImage, match="not 8 bits a channel"):
        list(image_folder(str(tmp_path), size=8).train())


def test_parameters_accept_what_yaml_gives() -> None:
    assert DATA.parameters("parquet")(path="x", classes=["a", "b"]).model_dump()["classes"] == ["a", "b"]
    assert DATA.parameters("image_folder")(path="x", size=32).model_dump()["classes"] is None
    for name in DATA.names():
        DATA.parameters(name)
        assert DATA.describe(name).summary


def test_map_in_threads_keeps_the_order_and_raises_errors() -> None:
    assert list(map_in_threads(lambda i: i * i, range(1000))) == [i * i for i in range(1000)]

    def fails(i: int) -> int:
        if i == 500:
            raise DataError("number 500")
        return i

    with pytest.raises(DataError, match="number 500"):
        list(map_in_threads(fails, range(1000)))
