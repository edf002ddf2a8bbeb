"""Anyone's own folder: both layouts, every kind of annotation, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deapcache.annotations import COLUMNS
from deapcache.datasets import COLOUR, DATASETS, Dataset, DigestIndex, dataset_entry, open_dataset
from deapcache.datasets.base import sample_order
from deapcache.errors import DataError, MissingDataError, UnknownNameError, UsageError
from deapcache.locations import LocalLocation

SIZE = (6, 9)
CLASSES = ["wall", "floor", "chair"]
GENERATOR = np.random.default_rng(0)


def save_image(path: Path, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A random picture in a file of its own; what it shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = GENERATOR.integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def save_map(path: Path, values: Any, dtype: Any = np.uint8) -> np.ndarray:
    """Numbers as a greyscale picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype)).save(path)
    return np.asarray(values)


def save_sample(base: Path, name: str) -> dict[str, np.ndarray]:
    """An image with all annotations; what they show."""
    classes, ids = GENERATOR.integers(0, 3, SIZE), GENERATOR.integers(0, 4, SIZE)
    classes[0, :3], ids[1, :2] = 255, 255
    metres = GENERATOR.uniform(0, 10, SIZE).astype(np.float32)
    metres[2, 2] = np.nan
    (base / "depth" / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(base / "depth" / f"{name}.npy", metres)
    return {
        "image": save_image(base / "images" / f"{name}.png"),
        "classes": save_map(base / "labels" / f"{name}.png", classes),
        "instances": save_map(base / "instances" / f"{name}.png", ids),
        "depth": metres,
    }


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Two training images and one for validation, with everything."""
    root = tmp_path / "data" / "birds"
    for split, names in (("train", ("b", "sub/a")), ("val", ("c",))):
        for name in names:
            save_sample(root / split, name)
    (root / "classes.json").write_text(json.dumps(CLASSES))
    return root


def opened(root: Path) -> Dataset:
    return open_dataset(f"folder:{root.name}", root.parent)


def test_everything_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = save_sample(tmp_path / "mine" / "val", "été 1/photo one")
    (tmp_path / "mine" / "classes.json").write_text(json.dumps(CLASSES))
    dataset = opened(tmp_path / "mine")
    assert (dataset.name, dataset.images_name) == ("folder:mine", "folder:mine")
    assert dataset.annotations == ("classes", "instances", "depth", "boxes")
    assert dataset.classes == tuple(CLASSES)
    assert dataset.image_ids("val") == ("été 1/photo one",)
    np.testing.assert_array_equal(dataset.read_image("val", 0), written["image"])
    classes = dataset.read_annotation("val", 0, "classes")
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, written["classes"])
    ids = dataset.read_annotation("val", 0, "instances")
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, np.where(written["instances"] == 255, 0, written["instances"]))
    depth = dataset.read_annotation("val", 0, "depth")
    assert depth.dtype == np.float32
    assert depth[2, 2] == 0
    np.testing.assert_array_equal(depth, np.nan_to_num(written["depth"]))


def test_boxes_are_those_of_the_objects(birds: Path) -> None:
    ids, classes = np.zeros(SIZE, int), np.ones(SIZE, int)
    ids[2:5, 3:7], ids[0, 0] = 7, 9
    classes[ids == 7] = 2
    save_map(birds / "val" / "instances" / "c.png", ids)
    save_map(birds / "val" / "labels" / "c.png", classes)
    dataset = opened(birds)
    table = dataset.read_annotation("val", 0, "boxes")
    assert table.tolist() == [[0, 0, 9, 6, 54, 3, 0], [3, 2, 4, 3, 12, 1, 2], [0, 0, 1, 1, 1, 1, 1]]
    assert dataset.box_rows("val") == 1001
    assert len(COLUMNS) == table.shape[1]
    save_map(birds / "val" / "instances" / "c.png", 1 + np.arange(1020).reshape(30, 34), np.uint16)
    save_map(birds / "val" / "labels" / "c.png", np.zeros((30, 34)))
    save_image(birds / "val" / "images" / "c.png", (30, 34))
    with pytest.raises(DataError, match=r"instances/c\.png has 1020 objects; expected 1000"):
        opened(birds).read_annotation("val", 0, "boxes")


def test_sixteen_bits_have_a_void_of_their_own(birds: Path) -> None:
    save_map(birds / "val" / "instances" / "c.png", np.resize([0, 255, 256, 65535], SIZE), np.uint16)
    found = opened(birds).read_annotation("val", 0, "instances")
    np.testing.assert_array_equal(found, np.resize([0, 255, 256, 0], SIZE))


def test_depth_in_millimetres(birds: Path) -> None:
    (birds / "val" / "depth" / "c.npy").unlink()
    save_map(birds / "val" / "depth" / "c.png", np.resize([0, 1, 1500, 65534], SIZE), np.uint16)
    found = opened(birds).read_annotation("val", 0, "depth")
    np.testing.assert_allclose(found, np.resize([0, 0.001, 1.5, 65.534], SIZE), rtol=1e-6)
    save_map(birds / "val" / "depth" / "c.png", np.zeros(SIZE))
    with pytest.raises(DataError, match=r"depth/c\.png has pixels of mode L; expected .* 16 bits"):
        opened(birds).read_annotation("val", 0, "depth")


def test_rows_follow_no_file_system(birds: Path) -> None:
    assert opened(birds).image_ids("train") == tuple(sample_order(["b", "sub/a"]))
    assert opened(birds).image_ids("val") == ("c",)
    (birds / "train" / "images" / ".DS_Store").touch()
    (birds / "train" / "images" / ".thumbnails").mkdir()
    (birds / "train" / "images" / ".thumbnails" / "b.png").touch()
    assert set(opened(birds).image_ids("train")) == {"b", "sub/a"}


def test_a_split_file_says_the_same_as_two_folders(birds: Path, tmp_path: Path) -> None:
    other = tmp_path / "again" / "birds"
    shutil.copytree(birds / "train", other)
    shutil.copytree(birds / "val", other, dirs_exist_ok=True)
    save_sample(other, "unused")
    shutil.copy(birds / "classes.json", other)
    (other / "split.json").write_text(json.dumps({"val": ["c.png"], "train": ["sub/a.png", "b"]}))
    two, one = opened(birds), opened(other)
    for split in ("train", "val"):
        assert one.image_ids(split) == two.image_ids(split)
        assert one.image_digests(split) == two.image_digests(split)
        for kind in two.annotations:
            assert one.annotation_digest(split, kind) == two.annotation_digest(split, kind)
            for row in range(len(two.image_ids(split))):
                np.testing.assert_array_equal(
                    one.read_annotation(split, row, kind), two.read_annotation(split, row, kind)
                )


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ("{", "split.json is not valid JSON"),
        ([1], "is no split file"),
        ({"train": ["a"], "test": ["b"]}, "is no split file: .*under train and val and nothing else"),
        ({"train": "a"}, "is no split file"),
        ({"train": [3]}, "is no split file"),
        ({"train": ["a", "a"]}, "lists image a twice: in train and in train"),
        ({"train": ["a"], "val": ["a.png"]}, "lists image a twice: in train and in val"),
        ({"train": ["a", "gone"]}, "images has no image gone, which is listed"),
    ],
)
def test_split_files_that_contradict(tmp_path: Path, lists: Any, message: str) -> None:
    root = tmp_path / "mine"
    save_image(root / "images" / "a.png")
    (root / "split.json").write_text(lists if isinstance(lists, str) else json.dumps(lists))
    with pytest.raises(DataError, match=message):
        opened(root).image_ids("train")


def test_a_folder_has_the_annotations_that_it_has_folders_for(tmp_path: Path) -> None:
    root = tmp_path / "plain"
    save_image(root / "train" / "images" / "a.jpg")
    assert opened(root).annotations == ()
    save_map(root / "train" / "instances" / "a.png", np.zeros(SIZE))
    dataset = opened(root)
    assert dataset.annotations == ("instances", "boxes")
    assert dataset.classes == ()
    with pytest.raises(UsageError, match="no annotation 'depth': it has instances, boxes"):
        dataset.read_annotation("train", 0, "depth")
    with pytest.raises(UsageError, match="no annotation 'classes'"):
        dataset.target_options("classes")
    with pytest.raises(MissingDataError, match=r"no val split: .*plain lacks val/images/; .*--split"):
        dataset.image_ids("val")
    save_image(root / "val" / "images" / "b.jpg")
    with pytest.raises(MissingDataError, match=r"val/instances is missing, and .*train/instances is there"):
        opened(root).image_ids("val")


def test_annotations_lie_on_the_upright_image(birds: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.rot90(GENERATOR.integers(0, 256, (*SIZE, 3), dtype=np.uint8))  # a quarter turn brings it back
    Image.fromarray(stored).save(birds / "val" / "images" / "c.png", exif=exif)
    dataset = opened(birds)
    assert dataset.colour == COLOUR
    np.testing.assert_array_equal(dataset.read_image("val", 0), np.rot90(stored, -1))
    assert dataset.read_annotation("val", 0, "classes").shape == SIZE
    save_map(birds / "val" / "labels" / "c.png", np.zeros(stored.shape[:2]))
    with pytest.raises(DataError, match=r"labels/c\.png has 9 x 6 pixels .*c\.png has 6 x 9"):
        dataset.read_annotation("val", 0, "classes")


def test_a_dataset_that_makes_its_images_in_its_own_way_is_resized_from_them(birds: Path) -> None:
    whole = type(opened(birds))

    class Dark(whole):  # type: ignore[misc, valid-type]
        def read_image(self, split: str, row: int) -> np.ndarray:
            return super().read_image(split, row) // 2

    dataset = Dark(birds)
    dark = opened(birds).read_image("val", 0) // 2
    np.testing.assert_array_equal(np.asarray(dataset.picture("val", 0)), dark)


def test_names_match_however_a_file_system_writes_them(tmp_path: Path) -> None:
    base = tmp_path / "mine" / "train"
    save_image(base / "images" / (unicodedata.normalize("NFD", "été") + ".png"))
    save_map(base / "instances" / (unicodedata.normalize("NFC", "été") + ".png"), np.ones(SIZE))
    dataset = opened(tmp_path / "mine")
    assert dataset.image_ids("train") == (unicodedata.normalize("NFC", "été"),)
    assert dataset.read_annotation("train", 0, "instances").all()


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere, base = tmp_path / "elsewhere", tmp_path / "mine" / "train" / "images"
    save_image(elsewhere / "a.png")
    base.mkdir(parents=True)
    (base / "more").symlink_to(elsewhere)
    assert opened(tmp_path / "mine").image_ids("train") == ("more/a",)
    (base / "round").symlink_to(base)
    with pytest.raises(DataError, match="round is a link to a folder that is listed already"):
        opened(tmp_path / "mine").image_ids("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ('{"a": 1}', "not what labels need"),
        ("[]", "not what labels need"),
        ('["a", ""]', "not what labels need"),
        ('["a", "a"]', "2 names, 1 of them different"),
        (json.dumps([str(k) for k in range(256)]), "256 names"),
    ],
)
def test_class_lists_that_cannot_be_used(birds: Path, text: str, message: str) -> None:
    (birds / "classes.json").write_text(text)
    with pytest.raises(DataError, match=rf"classes\.json .*{message}"):
        opened(birds)


def test_labels_need_a_class_list(birds: Path) -> None:
    (birds / "classes.json").unlink()
    with pytest.raises(MissingDataError, match=r"classes\.json is missing, which labels need"):
        opened(birds)


def test_two_layouts_in_one_are_refused(birds: Path) -> None:
    save_image(birds / "images" / "a.png")
    with pytest.raises(DataError, match=r"train/images/ and images/: .* not both"):
        opened(birds)


def test_where_it_is_looked_for(birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_dataset("folder:birds", birds).image_ids("val") == ("c",)
    monkeypatch.chdir(birds)
    assert open_dataset("folder:birds", Path()).image_ids("val") == ("c",)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "fowl").symlink_to(birds)
    assert open_dataset("folder:fowl", tmp_path / "links").name == "folder:fowl"
    with pytest.raises(MissingDataError, match=r"folder:cats is not under .*data: .*there is folder:birds"):
        open_dataset("folder:cats", birds.parent)
    with pytest.raises(MissingDataError, match=r"nowhere: .*found no such folder.*--data-root"):
        open_dataset("folder:cats", tmp_path / "nowhere")
    (birds.parent / "empty").mkdir()
    with pytest.raises(MissingDataError, match=r"empty has no splits: expected train/images/.*found an empty folder"):
        open_dataset("folder:empty", birds.parent)
    (birds.parent / "empty" / "train" / "images").mkdir(parents=True)
    with pytest.raises(MissingDataError, match=r"no train images in .*empty/train/images"):
        open_dataset("folder:empty", birds.parent).image_ids("train")


def test_a_folder_must_be_named(birds: Path) -> None:
    with pytest.raises(UsageError, match=r"folder:NAME.*under .*data is folder:birds"):
        open_dataset("folder", birds.parent)
    with pytest.raises(UsageError, match=r"under .*birds is folder:birds"):
        open_dataset("folder", birds)
    for name in ("", "..", "a/b", "/tmp"):
        with pytest.raises(UsageError, match="the name of a folder without its path"):
            open_dataset(f"folder:{name}", birds)
    with pytest.raises(UnknownNameError, match="coco is one data set"):
        open_dataset("coco:birds", birds)
    with pytest.raises(UnknownNameError, match="unknown dataset 'fold:birds'"):
        open_dataset("fold:birds", birds)


def test_status_counts_without_opening(birds: Path, tmp_path: Path) -> None:
    status = dataset_entry("folder:birds").status(birds.parent)
    assert {split: found.images for split, found in status.items()} == {"train": 2, "val": 1}
    shutil.rmtree(birds / "val")
    every = DATASETS.get("folder").status(birds.parent)
    assert every["folder:birds train"].images == 2
    assert every["folder:birds val"].missing == (str(birds / "val" / "images"),)
    nothing = DATASETS.get("folder").status(tmp_path / "nowhere")
    assert not any(found.is_usable for found in nothing.values())
    save_image(birds / "images" / "a.png")
    (birds / "split.json").write_text('{"train": ["a"]}')
    assert "not both" in dataset_entry("folder:birds").status(birds)["train"].missing[0]
    shutil.rmtree(birds / "train")
    listed = dataset_entry("folder:birds").status(birds)
    assert (listed["train"].images, listed["val"].missing) == (1, (f"val in {birds / 'split.json'}",))


def test_digests_follow_images_and_each_kind_of_annotation(birds: Path, home: LocalLocation) -> None:
    def digests() -> dict[str, Any]:
        dataset, index = opened(birds), DigestIndex(home)
        kinds = {kind: dataset.annotation_digest("train", kind, index=index) for kind in dataset.annotations}
        return {"images": dataset.image_digests("train", index=index), **kinds}

    before = digests()
    save_map(birds / "train" / "labels" / "b.png", np.zeros(SIZE))
    after = digests()
    assert {name for name in before if before[name] != after[name]} == {"classes", "boxes"}
    save_image(birds / "train" / "images" / "b.png")
    last = digests()
    assert {name for name in after if after[name] != last[name]} == {"images"}


def test_can_be_sent_to_another_process(birds: Path) -> None:
    copy = pickle.loads(pickle.dumps(opened(birds)))
    assert copy.image_ids("train") == opened(birds).image_ids("train")
    assert copy.annotations == opened(birds).annotations
