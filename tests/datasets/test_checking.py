"""Checks of a dataset's files, on small folders that were broken on purpose."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from deapcache.datasets import Dataset, open_dataset
from deapcache.datasets.checking import SAMPLE, SplitCheck, check_split, sample_rows
from deapcache.datasets.files import FileDataset, Sample
from deapcache.datasets.io import read_index_map
from deapcache.errors import DataError, MissingDataError


class Toy(FileDataset):
    """Images in ``images/``, each with a class map in ``labels/`` of whatever size."""

    name = "toy"
    images_name = "toy"
    annotations: ClassVar = ("classes",)

    def list_samples(self, split: str) -> Sequence[Sample]:
        names = sorted(path.stem for path in (self.root / "images").iterdir())
        return [Sample(id=n, image=f"images/{n}.jpg", labels={"classes": (f"labels/{n}.png",)}) for n in names]

    def read_labels(self, sample: Sample, kind: str) -> np.ndarray:
        return read_index_map(self.root / sample.labels[kind][0])

    def target_options(self, kind: str) -> dict[str, Any]:
        return {}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    root = tmp_path / "toy"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (6, 4)).save(root / "images" / f"{name}.jpg")
        Image.new("L", (6, 4)).save(root / "labels" / f"{name}.png")
    return root


def checked(dataset: Dataset, split: str = "val", *, full: bool = True) -> SplitCheck:
    check = SplitCheck(split=split)
    check_split(dataset, check, full=full, progress=lambda *_: None)
    return check


def edit(root: Path, change: Callable[[dict[str, Any]], Any], split: str = "val") -> Path:
    path = root / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def images(root: Path, split: str = "val") -> list[Path]:
    return sorted((root / f"{split}2017").iterdir())


@pytest.mark.parametrize("full", [False, True])
def test_a_sound_split_has_no_problem(make_coco, full: bool) -> None:
    root = make_coco(1, 5)
    check = checked(open_dataset("coco", root), full=full)
    assert check.problems == []
    assert (check.images, check.files, check.opened, check.to_open) == (5, 6, 5, 5)
    assert check.folder == root / "val2017"


def test_each_broken_file_is_one_problem_that_names_it(make_coco) -> None:
    root = make_coco(1, 8)
    missing, empty, truncated, other_size, folder, text = images(root)[:6]
    missing.unlink()
    empty.write_bytes(b"")
    truncated.write_bytes(truncated.read_bytes()[:400])
    Image.new("RGB", (20, 10)).save(other_size)
    folder.unlink()
    folder.mkdir()
    text.write_text("no picture")
    check = checked(open_dataset("coco", root))
    said = {path: [problem for problem in check.problems if path.name in problem] for path in images(root)}
    said[missing] = [problem for problem in check.problems if missing.name in problem]
    assert {path: len(problems) for path, problems in said.items()} == {
        **dict.fromkeys((missing, empty, truncated, other_size, folder, text), 1),
        **dict.fromkeys(images(root)[-2:], 0),
    }
    assert "lacks" in said[missing][0]
    assert said[empty] == [f"{empty} is empty (0 bytes)"]
    assert "directory" in said[folder][0]
    assert "cannot decode" in said[truncated][0]
    assert "10 x 20 pixels" in said[other_size][0]
    assert len(check.problems) == 6
    assert check.opened == check.images == 8


def test_missing_files_are_told_apart_whose_names_contain_each_other(make_coco) -> None:
    root = make_coco(1, 3)
    for path, name in zip(images(root), ("11.jpg", "1.jpg", "2.jpg"), strict=True):
        path.rename(path.with_name(name))
    names = iter(("11.jpg", "1.jpg", "2.jpg"))
    edit(root, lambda content: [image.update(file_name=next(names)) for image in content["images"]])
    for name in ("11.jpg", "1.jpg"):
        (root / "val2017" / name).unlink()
    check = checked(open_dataset("coco", root))
    assert "lacks 2 of the 3 listed images, the first is 11.jpg" in check.problems[0]
    assert check.problems[1:] == [f"{root / 'val2017' / '1.jpg'} is missing"]


def test_a_quick_check_looks_at_all_files_and_opens_a_sample(make_coco) -> None:
    root = make_coco(1, 2 * SAMPLE + 5, size=(8, 8))
    dataset = open_dataset("coco", root)
    chosen = set(sample_rows(2 * SAMPLE + 5))
    spared = [row for row in range(2 * SAMPLE + 5) if row not in chosen]
    truncated, empty = (images(root)[row] for row in spared[:2])
    truncated.write_bytes(truncated.read_bytes()[:100])
    empty.write_bytes(b"")
    quick = checked(dataset, full=False)
    assert quick.problems == [f"{empty} is empty (0 bytes)"]
    assert (quick.opened, quick.images) == (SAMPLE, 2 * SAMPLE + 5)
    full = checked(dataset, full=True)
    assert [str(path) in "".join(full.problems) for path in (truncated, empty)] == [True, True]
    assert (len(full.problems), full.opened) == (2, 2 * SAMPLE + 5)


@pytest.mark.parametrize("count", [0, 1, SAMPLE - 1, SAMPLE, SAMPLE + 1, 5000, 118_287])
def test_the_sample_is_spread_over_all_rows(count: int) -> None:
    rows = list(sample_rows(count))
    assert len(rows) == min(count, SAMPLE)
    assert rows == sorted(set(rows))
    assert not count or (rows[0], rows[-1]) == (0, count - 1)
    steps = np.diff(rows)
    assert not len(steps) or steps.max() - steps.min() <= 1


def test_an_annotation_that_cannot_be_drawn_is_named(make_coco) -> None:
    root = make_coco(1, 3)
    path = edit(root, lambda content: content["annotations"][1].update(segmentation=[]))
    (problem,) = checked(open_dataset("coco", root)).problems
    assert str(path) in problem
    assert "annotation 10002 of image 10001" in problem


@pytest.mark.parametrize("text", ["", "[1", "{}"])
def test_a_listing_that_cannot_be_read_is_the_one_problem(make_coco, text: str) -> None:
    root = make_coco(1, 2)
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(text)
    check = checked(open_dataset("coco", root))
    (problem,) = check.problems
    assert str(path) in problem
    assert "\n" not in problem
    assert (check.images, check.opened) == (0, 0)


def test_a_missing_split_and_an_empty_one_are_problems(make_coco) -> None:
    root = make_coco(1, 1)
    shutil.rmtree(root / "train2017")
    edit(root, lambda content: content.update(images=[], annotations=[]))
    dataset = open_dataset("coco", root)
    (problem,) = checked(dataset, "train").problems
    assert str(root / "train2017") in problem
    assert checked(dataset, "val").problems == ["coco/val lists no image"]


def test_missing_labels_are_one_line_each_and_a_missing_folder_is_one_line(toy: Path) -> None:
    (toy / "labels" / "b.png").unlink()
    (toy / "labels" / "c.png").write_bytes(b"")
    assert checked(Toy(toy)).problems == [
        f"{toy / 'labels' / 'b.png'} is missing",
        f"{toy / 'labels' / 'c.png'} is empty (0 bytes)",
    ]
    shutil.rmtree(toy / "labels")
    check = checked(Toy(toy))
    assert check.problems == [f"{toy / 'labels'} is missing"]
    assert (check.images, check.files, check.opened) == (3, 6, 3)


def test_annotations_of_another_size_than_their_image(toy: Path) -> None:
    Image.new("L", (4, 6)).save(toy / "labels" / "b.png")
    (problem,) = checked(Toy(toy)).problems
    assert problem.startswith(f"{toy / 'images' / 'b.jpg'} has 4 x 6 pixels (height x width), its classes have 6 x 4")


class TolerantToy(Toy):
    """Lists images without a label, too, where it is told to; strict, it tells the first of them."""

    is_tolerant = False

    def tolerant(self) -> TolerantToy:
        made = TolerantToy(self.root)
        made.is_tolerant = True
        return made

    def list_samples(self, split: str) -> Sequence[Sample]:
        samples = super().list_samples(split)
        if not self.is_tolerant and (problems := list(filter(None, map(self._problem, samples)))):
            raise DataError(f"{problems[0]} (and {len(problems) - 1} more); unpack it again")
        return [s if not self._problem(s) else replace(s, labels={"classes": ("labels",)}) for s in samples]

    def read_labels(self, sample: Sample, kind: str) -> np.ndarray:
        if problem := self._problem(sample):
            raise DataError(problem)
        return super().read_labels(sample, kind)

    def _problem(self, sample: Sample) -> str:
        present = (self.root / "labels" / f"{sample.id}.png").exists()
        return "" if present else f"{self.root / 'labels'} has no {sample.id}.png"


def test_what_the_listing_said_is_not_said_again_by_the_row(toy: Path) -> None:
    for name in "ac":
        (toy / "labels" / f"{name}.png").unlink()
    check = checked(TolerantToy(toy))
    labels = toy / "labels"
    assert check.problems == [f"{labels} has no a.png (and 1 more); unpack it again", f"{labels} has no c.png"]
    assert check.opened == 3


def test_progress_counts_files_and_then_images(toy: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    check_split(Toy(toy), SplitCheck(split="val"), full=True, progress=lambda *event: seen.append(event))
    assert seen == [("files", 6, 6), ("images", 1, 3), ("images", 2, 3), ("images", 3, 3)]


def test_what_was_found_stays_when_a_check_is_interrupted(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "labels" / "a.png").write_text("no picture")
    read = Toy.read_image

    def interrupted(self: Toy, split: str, row: int) -> np.ndarray:
        if row == 2:
            raise KeyboardInterrupt
        return read(self, split, row)

    monkeypatch.setattr(Toy, "read_image", interrupted)
    check = SplitCheck(split="val")
    with pytest.raises(KeyboardInterrupt):
        check_split(Toy(toy), check, full=True, progress=lambda *_: None)
    assert (check.opened, check.to_open, len(check.problems)) == (2, 3, 1)


def test_a_dataset_without_files_is_only_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deapcache.datasets.checking.SAMPLE", 2)
    scenes, check = open_dataset("scenes", Path()), SplitCheck(split="val")
    check_split(scenes, check, full=False, progress=lambda *_: None)
    assert (check.problems, check.opened, check.files) == ([], 2, 0)
    assert scenes.row_files("val", 3) == ()


def test_an_error_has_the_path_of_its_file(make_coco) -> None:
    root = make_coco(1, 2)
    dataset, path = open_dataset("coco", root), images(root)[1]
    path.write_bytes(b"")
    with pytest.raises(DataError) as raised:
        dataset.read_image("val", 1)
    copied = pickle.loads(pickle.dumps(raised.value))  # as it comes from a worker process
    assert (raised.value.path, copied.path, str(copied)) == (path, path, str(raised.value))
    path.unlink()
    with pytest.raises(MissingDataError, match="lacks 1 of the 2") as listed:
        open_dataset("coco", root).image_ids("val")
    assert listed.value.path == path
