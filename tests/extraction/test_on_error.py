"""What cannot be read is left out when asked for: found before caches are made, listed, remembered, recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deapcache_odd_cases import make_odd_folder, write_sound
from PIL import Image

from deapcache.cache import list_caches
from deapcache.datasets import Dataset, open_dataset
from deapcache.datasets.folder import FolderDataset
from deapcache.datasets.scenes import Scenes
from deapcache.errors import AmbiguousCacheError, DataError, MissingDataError, UsageError
from deapcache.experiments import probe
from deapcache.extraction import (
    ExtractionReport,
    ExtractionSettings,
    extract,
    omitted_from,
    plan_extraction,
    without_unreadable,
)
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig

BACKBONE = "efficientnet-lite0-s16"


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Five training images, of which b is empty and d has a label of another size, and three for validation."""
    root = tmp_path / "data" / "few"
    for split, names in (("train", "abcde"), ("val", "xyz")):
        for name in names:
            write_sound(root / split, name)
    (root / "classes.json").write_text('["wall", "floor", "chair"]')
    (root / "train" / "images" / "b.png").write_bytes(b"")
    Image.new("L", (3, 4)).save(root / "train" / "labels" / "d.png")
    return root


def opened(root: Path) -> Dataset:
    return open_dataset(f"folder:{root.name}", root.parent)


def run(root: Path, home: LocalLocation, **settings: Any) -> list[ExtractionReport]:
    chosen = ExtractionSettings(batch_size=4, base_size=(64, 64), **settings)
    return list(extract([BACKBONE], opened(root), home, settings=chosen))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the images that are read from now on."""
    read_ids: list[str] = []
    read = FolderDataset.read_image

    def counted(self: FolderDataset, split: str, row: int) -> np.ndarray:
        read_ids.append(self.image_ids(split)[row])
        return read(self, split, row)

    monkeypatch.setattr(FolderDataset, "read_image", counted)
    return read_ids


def test_an_error_says_how_to_go_on_without(few: Path, home: LocalLocation) -> None:
    with pytest.raises(DataError, match=r"/[bd]\.png.*; or leave out what cannot be read with --on-error skip$"):
        run(few, home)
    native = ExtractionSettings(base_size="native")
    with pytest.raises(DataError, match=r"/[bd]\.png.*; or leave out what cannot be read with --on-error skip$"):
        list(extract([BACKBONE], opened(few), home, settings=native))
    (few / "val" / "images" / "y.png").unlink()
    with pytest.raises(DataError, match=r"has no image y, which .*--on-error skip$"):
        list(extract([BACKBONE], opened(few), home, splits=["val"]))
    with pytest.raises(UsageError, match="unknown on-error 'ignore': choose one of stop, skip"):
        ExtractionSettings(on_error="ignore")


def test_the_rest_is_extracted_and_what_was_left_out_is_told(few: Path, home: LocalLocation) -> None:
    train, val = run(few, home, on_error="skip")
    assert (train.images, train.total, train.extracted) == (3, 3, 3)
    assert list(train.omitted) == ["b", "d"]
    assert "b.png: the file is empty" in train.omitted["b"]
    assert "d.png has 4 x 3 pixels" in train.omitted["d"]
    assert val.omitted == {}
    assert train.to_json()["omitted"] == train.omitted
    for entry in list_caches(home):
        told = entry.recipe.get("omitted")
        assert told == ({"images": 2, "ids": ["b", "d"]} if entry.split == "train" else None), entry.path
        assert len(entry.open()) == 3
        assert entry.open().is_complete()
    kinds = {(entry.kind, entry.name) for entry in list_caches(home)}
    assert {("images", ""), ("targets", "depth"), ("targets", "boxes"), ("features", BACKBONE)} <= kinds


def test_leaving_out_is_the_same_as_deleting(few: Path, home: LocalLocation) -> None:
    train, _ = run(few, home, on_error="skip")
    for path in [*few.rglob("b.*"), *few.rglob("d.*")]:
        path.unlink()
    again, _ = run(few, home)
    assert (again.path, again.extracted, again.omitted) == (train.path, 0, {})
    assert len(list_caches(home, "targets")) == 2 * 4


def test_nothing_to_leave_out_is_nothing_special(few: Path, home: LocalLocation) -> None:
    for path in [*few.rglob("b.*"), *few.rglob("d.*")]:
        path.unlink()
    stopped, skipped = run(few, home), run(few, home, on_error="skip")
    assert [report.path for report in skipped] == [report.path for report in stopped]
    assert [report.extracted for report in skipped] == [0, 0]
    assert not any("omitted" in entry.recipe for entry in list_caches(home))


@pytest.mark.usefixtures("settled_files")
def test_the_second_check_reads_only_what_could_not_be_read_or_has_changed(
    few: Path, home: LocalLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = count_reads(monkeypatch)
    first = without_unreadable(opened(few), ["train"], home)
    assert "".join(sorted(found)) == "abcde"
    found.clear()
    assert without_unreadable(opened(few), ["train"], home).omitted == first.omitted
    assert "".join(sorted(found)) == "bd"
    found.clear()
    write_sound(few / "train", "b")
    (few / "train" / "depth" / "e.npy").write_bytes(b"")
    assert list(without_unreadable(opened(few), ["train"], home).omitted["train"]) == ["d", "e"]
    assert "".join(sorted(found)) == "bde"
    found.clear()
    (few / "classes.json").write_text('["wall", "floor"]')  # now labels may no longer hold a 2
    with pytest.raises(DataError, match=r"no image of folder:few/train can be read with all its annotations: "):
        without_unreadable(opened(few), ["train"], home)
    assert "".join(sorted(found)) == "abcde"


def test_a_fresh_file_is_not_trusted_and_a_broken_memory_not_needed(
    few: Path, home: LocalLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = count_reads(monkeypatch)
    without_unreadable(opened(few), ["train"], home)
    found.clear()
    without_unreadable(opened(few), ["train"], home)
    assert "".join(sorted(found)) == "abcde"
    (memory,) = home.keys("checks")
    assert set(json.loads(home.read(memory))["left_out"]) == {"b", "d"}
    home.publish(memory, b"[", replace=True)
    found.clear()
    assert list(without_unreadable(opened(few), ["train"], home).omitted["train"]) == ["b", "d"]
    assert "".join(sorted(found)) == "abcde"


@pytest.mark.usefixtures("settled_files")
def test_an_interrupted_check_goes_on_where_it_was(few: Path, home: LocalLocation, monkeypatch: Any) -> None:
    found = count_reads(monkeypatch)
    read_map = FolderDataset._read_map

    def interrupted(self: FolderDataset, path: Path, kind: str) -> np.ndarray:
        if path.stem == "e":
            raise KeyboardInterrupt
        return read_map(self, path, kind)

    with monkeypatch.context() as broken:
        broken.setattr(FolderDataset, "_read_map", interrupted)
        with pytest.raises(KeyboardInterrupt):
            without_unreadable(opened(few), ["train"], home)
    found.clear()
    without_unreadable(opened(few), ["train"], home)
    assert "".join(sorted(found)) == "bde"


def test_recipes_name_the_first_hundred_of_very_many() -> None:
    dataset = Scenes().without({"val": {f"image {k:03d}": "odd" for k in range(150)}})
    told = omitted_from(dataset, "val")
    assert told is not None
    assert (told["images"], len(told["ids"]), told["ids"][-1]) == (150, 100, "image 099")
    assert omitted_from(dataset, "train") is None


def test_a_split_without_a_readable_image_is_an_error(few: Path, home: LocalLocation) -> None:
    for path in (few / "val" / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"no image of folder:few/val can be read .*x\.png: the file is empty"):
        run(few, home, on_error="skip")
    shutil.rmtree(few / "val")
    with pytest.raises(MissingDataError, match="no val split"):
        run(few, home, on_error="skip")


def test_a_dataset_of_no_files_is_checked_too(home: LocalLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Scenes()
    monkeypatch.setattr(Scenes, "computes_images", False)  # threads see the changes below
    monkeypatch.setattr(Scenes, "annotations", ("depth",))
    monkeypatch.setattr(Scenes, "image_ids", lambda self, split: ("r", "s", "t"))
    monkeypatch.setattr(Scenes, "read_image", lambda self, split, row: np.zeros((2, 2, 3), np.uint8))

    def read(self: Scenes, split: str, row: int, kind: str) -> np.ndarray:
        if row == 1:
            raise DataError("s.png: odd")
        return np.zeros((2, 2), np.float32)

    monkeypatch.setattr(Scenes, "read_annotation", read)
    rest = without_unreadable(whole, ["val"], home)
    assert rest.image_ids("val") == ("r", "t")
    assert rest.omitted == {"val": {"s": "s.png: odd"}}


def test_a_plan_counts_what_is_left(few: Path, home: LocalLocation) -> None:
    settings = ExtractionSettings(batch_size=4, base_size=(64, 64), on_error="skip")
    plan = plan_extraction([BACKBONE], opened(few), home, settings=settings, measure=False)
    (train,) = [cache for cache in plan.caches if (cache.kind, cache.split) == ("features", "train")]
    assert (train.images, train.to_do) == (3, 3)
    assert list(plan.omitted["train"]) == ["b", "d"]
    assert not list_caches(home)
    run(few, home, on_error="skip")
    assert plan_extraction([BACKBONE], opened(few), home, settings=settings, measure=False).forwards == 0


def test_an_untrained_control_is_calibrated_on_what_can_be_read(few: Path, home: LocalLocation) -> None:
    settings = ExtractionSettings(batch_size=4, base_size=(64, 64), on_error="skip")
    (report,) = extract([f"{BACKBONE}@untrained"], opened(few), home, splits=["val"], settings=settings)
    assert (report.split, report.images) == ("val", 3)


def probed(home: LocalLocation, **where: str) -> Any:
    config = ProbeConfig(tasks=["segmentation"], dataset="folder:few", iterations=2, batch_size=2, where=where)
    (done,) = probe(home, config)
    return done.result


def test_a_home_with_the_whole_and_the_rest_asks_which(few: Path, home: LocalLocation) -> None:
    (few / "val" / "images" / "y.png").write_bytes(b"")
    part = run(few, home, on_error="skip")
    assert probed(home).caches["train"]["recipe"]["omitted"]["ids"] == ["b", "d"]
    for split, name in (("train", "b"), ("train", "d"), ("val", "y")):
        write_sound(few / split, name)
    whole = run(few, home)
    with pytest.raises(AmbiguousCacheError, match=r"features of .* train(.|\n)*omitted is null") as told:
        probed(home)
    assert 'omitted is {"ids":["b","d"],"images":2}' in str(told.value)
    assert probed(home, omitted="null").caches["train"]["digest"] == whole[0].digest
    digests = [
        entry.recipe["images"] for report in part for entry in list_caches(home) if entry.digest == report.digest
    ]
    with pytest.raises(AmbiguousCacheError, match=r"features of .* val"):
        probed(home, images=digests[0])
    result = probed(home, images=",".join(digest[:12] for digest in digests))
    assert [result.caches[split]["digest"] for split in ("train", "val")] == [report.digest for report in part]
    assert (result.train_images, result.val_images) == (3, 2)


def test_a_folder_of_odd_files_extracts_probes_and_says_what_was_left_out(tmp_path: Path, home: LocalLocation) -> None:
    root = tmp_path / "odd"
    outcomes = make_odd_folder(root)
    refused = {name for name, outcome in outcomes.items() if isinstance(outcome, str)}
    chosen = ExtractionSettings(batch_size=8, base_size=(64, 64), on_error="skip")
    train, val = extract([BACKBONE], opened(root), home, settings=chosen)
    assert set(train.omitted) == refused
    assert train.images == len(outcomes) - len(refused)
    assert val.images == 3
    tasks = ["segmentation", "depth"]
    results = [one.result for one in probe(home, ProbeConfig(tasks=tasks, iterations=2, batch_size=4))]
    assert {result.task for result in results} == set(tasks)
    for result in results:
        assert result.dataset == "folder:odd"
        assert result.train_images == train.images
        saved = json.loads(home.read(f"results/{result.run}.json"))
        assert set(saved["caches"]["train"]["recipe"]["omitted"]["ids"]) == refused
        assert saved["caches"]["train"]["recipe"]["omitted"]["images"] == len(refused)
