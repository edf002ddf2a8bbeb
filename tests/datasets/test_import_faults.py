"""Imports that are killed, places that cannot be written, and files that cannot be read: one line says what to do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deapcache_faults import environment
from deapcache_testing import closed, deapcache, mounted
from PIL import Image

from deapcache.datasets import DATASETS, open_dataset
from deapcache.datasets.checking import SplitCheck, check_split
from deapcache.datasets.importing import import_labels
from deapcache.errors import DataError, LocationError, MissingDataError, ReadOnlyError, StorageFullError

EXPORTS = Path(__file__).parents[1] / "data" / "exports"
CHILD = Path(__file__).with_name("import_child.py")

UNFINISHED = "of an import that was broken off, or is still running"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset but for the record, which says where it was made."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "import.json"
    }


def require_sound(root: Path) -> None:
    """``folder:birds`` and nothing else is below a folder, and can be read whole."""
    assert {name.split()[0] for name in DATASETS.get("folder").status(root)} == {"folder:birds"}
    dataset = open_dataset("folder:birds", root)
    for split in ("train", "val"):
        check = SplitCheck(split=split)
        check_split(dataset, check, full=True, progress=lambda *_: None)
        assert (check.problems, check.opened > 0) == ([], True)


def require_no_dataset(root: Path) -> None:
    """What an import left behind is no dataset by any name."""
    assert not any(status.is_usable for status in DATASETS.get("folder").status(root).values())
    with pytest.raises(MissingDataError, match="folder:birds is not under"):
        open_dataset("folder:birds", root)
    for left in root.iterdir():
        for data_root in (root, left):
            with pytest.raises(DataError, match=f"{left} is {UNFINISHED}: import again, or wait for it"):
                open_dataset(f"folder:{left.name}", data_root)


@pytest.fixture(scope="module")
def importer() -> Iterator[Callable[..., int]]:
    """Imports in a process that is killed at a given point; gives its exit status."""
    pipe = subprocess.PIPE
    parent = subprocess.Popen([sys.executable, CHILD], stdin=pipe, stdout=pipe, text=True, env=environment())

    def run(source: Path, out: Path, at: str, number: int, *, copy: bool) -> int:
        job = {"source": str(source), "out": str(out), "at": at, "number": number, "copy": copy}
        assert parent.stdin
        assert parent.stdout
        parent.stdin.write(json.dumps(job) + "\n")
        parent.stdin.flush()
        return int(parent.stdout.readline())

    yield run
    parent.communicate(timeout=60)


@pytest.mark.parametrize(
    ("at", "number"),
    [
        ("link", 1),
        ("link", 3),
        ("copy", 1),
        ("copy", 4),
        ("map", 1),
        ("map", 7),
        ("boxes", 2),
        ("classes.json", 1),
        ("import.json", 1),
        ("split.json", 1),
        ("rename", 1),
    ],
)
def test_what_a_killed_import_leaves_is_no_dataset_and_is_named_by_the_next(
    importer: Callable[..., int], tmp_path: Path, at: str, number: int
) -> None:
    whole, root = tmp_path / "whole", tmp_path / "data"
    import_labels(EXPORTS / "coco", whole / "birds", copy=at == "copy")
    assert importer(EXPORTS / "coco", root / "birds", at, number, copy=at == "copy") == -signal.SIGKILL
    (left,) = root.iterdir()
    assert left.name.startswith(".birds.importing-")
    require_no_dataset(root)
    report = import_labels(EXPORTS / "coco", root / "birds", copy=at == "copy")
    assert report.notes[0] == f"{left}: {UNFINISHED}; remove it if none is"
    assert contents(root / "birds") == contents(whole / "birds")
    require_sound(root)
    assert left.is_dir(), "another import may be at work there"


def test_an_import_that_is_killed_after_its_renaming_is_whole(importer: Callable[..., int], tmp_path: Path) -> None:
    assert importer(EXPORTS / "coco", tmp_path / "birds", "renamed", 1, copy=False) == -signal.SIGKILL
    require_sound(tmp_path)


def test_the_command_killed_from_outside_and_run_again(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    Image.new("RGB", (4, 4)).save(source / "0000.png")
    for number in range(1, 5000):
        os.link(source / "0000.png", source / f"{number:04}.png")
    command = deapcache("import", source, "--out", root / "birds")
    code = 0
    while code == 0:  # on a busy machine it may end before it is killed
        shutil.rmtree(root, ignore_errors=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
        while process.poll() is None and not any(root.glob(".birds.*/images/*")):
            time.sleep(0.001)
        process.kill()
        code = process.wait()
    assert code == -signal.SIGKILL
    (left,) = root.iterdir()
    require_no_dataset(root)
    # more notes than are printed: the line is among those that are
    for number in range(7):
        (source / f"{number}.csv").touch()
        (source / f"dataset{number}").mkdir()
        for name in ("import.json", "split.json"):
            (source / f"dataset{number}" / name).write_text("{}")
    done = subprocess.run(command, capture_output=True, text=True, env={**environment(), "COLUMNS": "400"}, check=True)
    assert f"{left}: {UNFINISHED}; remove it if none is" in done.stdout
    assert len(open_dataset("folder:birds", root).image_ids("train")) == 4000


# What cannot be written.


def test_a_read_only_source_is_enough(tmp_path: Path) -> None:
    source = tmp_path / "export"
    shutil.copytree(EXPORTS / "coco", source)
    import_labels(source, tmp_path / "before")
    for path in (source, *source.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    (tmp_path / "other").touch()
    with closed(tmp_path / "other"):
        for name, copy in (("birds", False), ("copies", True)):
            assert import_labels(source, tmp_path / "data" / name, copy=copy).left_out == {}
        image = next((tmp_path / "data" / "copies" / "images").iterdir())
        image.write_bytes(b"")  # a copy is one's own
        with pytest.raises(ReadOnlyError, match=rf"cannot write {source}/\.birds\..*: Permission denied; give another"):
            import_labels(source, source / "birds")
        with pytest.raises(ReadOnlyError, match=rf"cannot write {source}/deep: Permission denied; give another --out"):
            import_labels(source, source / "deep" / "birds")


def test_a_disk_that_is_full_is_named_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=32k") as disk:
        with pytest.raises(StorageFullError, match=rf"cannot write {disk}/.*: No space left on device; make room"):
            import_labels(EXPORTS / "coco", disk / "birds", copy=True)
        assert list(disk.iterdir()) == []


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object, *_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(source), None, str(target))

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(LocationError, match=r"cannot write .*birds.*/images/.*; the file system may have no symbol"):
        import_labels(EXPORTS / "coco", tmp_path / "birds")
    assert list(tmp_path.iterdir()) == []
    assert import_labels(EXPORTS / "coco", tmp_path / "birds", copy=True).left_out == {}


# What cannot be read.


def source_with(export: str, tmp_path: Path, pattern: str) -> tuple[Path, Path, Path]:
    """A copy of an export, a file in it, and a place that anybody may write to."""
    source = tmp_path / "export"
    shutil.copytree(EXPORTS / export, source)
    import_labels(source, tmp_path / "before")  # loads modules that nobody may not be allowed to read
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    return source, sorted(source.rglob(pattern))[0], tmp_path / "data" / "birds"


@pytest.mark.parametrize(
    ("export", "pattern", "others"),
    [
        ("coco", "a.png", {}),
        ("yolo-boxes", "a.png", {}),
        ("yolo-boxes", "a.txt", {}),
        ("labelme", "a.png", {}),
        ("labelme", "a.json", {"a.png": "its label file cannot be used"}),
        ("voc-boxes", "a.xml", {"a.png": "its XML file cannot be used"}),
        ("masks", "SegmentationClass/a.png", {}),
    ],
)
def test_one_file_that_may_not_be_read_costs_one_image(
    export: str, pattern: str, others: dict[str, str], tmp_path: Path
) -> None:
    source, path, out = source_with(export, tmp_path, pattern)
    with closed(path):
        report = import_labels(source, out)
    assert sum(report.images.values()) == 3
    why = f"cannot read {path}: Permission denied; ask its owner to let your group read it"
    assert why in report.left_out.values()
    reasons = {Path(name).name: text for name, text in report.left_out.items() if text != why}
    assert reasons == others
    for split in report.images:
        check = SplitCheck(split=split)
        check_split(open_dataset("folder:birds", out.parent), check, full=True, progress=lambda *_: None)
        assert check.problems == []


@pytest.mark.parametrize(
    ("export", "pattern", "format"),
    [
        ("coco", "*.json", "coco"),
        ("kwcoco", "*.json", "coco"),
        ("cvat", "*.xml", "cvat"),
        ("yolo-boxes", "data.yaml", "yolo"),
        ("camvid", "label_colors.txt", "masks"),
    ],
)
def test_a_file_of_all_labels_that_may_not_be_read_stops_the_import(
    export: str, pattern: str, format: str, tmp_path: Path
) -> None:
    """It is not taken for a folder of photographs, either."""
    source, path, out = source_with(export, tmp_path, pattern)
    for asked in ("auto", format):
        with closed(path), pytest.raises(DataError, match=f"cannot read {path}: Permission denied; ask its owner"):
            import_labels(source, out, format=asked)
    assert list(out.parent.iterdir()) == []


def test_a_text_beside_a_photograph_that_may_not_be_read(tmp_path: Path) -> None:
    source, _, out = source_with("yolo-boxes", tmp_path, "a.txt")
    (tmp_path / "beside").mkdir()
    for text in (texts := sorted(source.rglob("labels/*/*.txt"))[:2]):
        for path in (text, next(source.rglob(f"{text.stem}.png"))):
            shutil.copyfile(path, tmp_path / "beside" / path.name)
    with closed(tmp_path / "beside" / texts[0].name):
        report = import_labels(tmp_path / "beside", out)
    assert (report.format, report.images, list(report.left_out)) == ("yolo", {"train": 1}, [f"{texts[0].stem}.png"])


def test_a_folder_that_may_not_be_entered_stops_the_import(tmp_path: Path) -> None:
    source, path, out = source_with("labelme", tmp_path, "a.png")
    with closed(path.parent), pytest.raises(DataError, match=rf"cannot read {path.parent}: Permission denied; ask its"):
        import_labels(source, out)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("export", "pattern"),
    [("coco", "a.png"), ("coco", "*.json"), ("labelme", "a.json"), ("yolo-boxes", "a.txt"), ("masks", "*Class/a.png")],
)
def test_a_disk_that_fails_is_no_fault_of_an_image(
    export: str, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not reached must not be missing from the dataset afterwards."""
    source, path, out = source_with(export, tmp_path, pattern)
    opened = Path.open

    def fail(self: Path, *given: Any, **more: Any) -> Any:
        if self == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return opened(self, *given, **more)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(LocationError, match=f"cannot read {path}: Input/output error; see to the disk"):
        import_labels(source, out)
    assert list(out.parent.iterdir()) == []


def test_names_that_are_not_utf_8_are_left_out(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for name in ("a.png", os.fsdecode(b"caf\xe9.png")):
        Image.new("RGB", (4, 4)).save(source / name)
    report = import_labels(source, tmp_path / "birds")
    assert report.images == {"train": 1}
    assert report.left_out == {r"caf\udce9.png": rf"the name of {source}/caf\udce9.png is not UTF-8: rename it"}
    assert json.loads((tmp_path / "birds" / "import.json").read_text())["left_out"] == report.left_out
