"""The folder of an export: refused, whole, or as it was before."""

from __future__ import annotations

from pathlib import Path

import pytest

from deapcache.datasets.scenes.export import export_scenes
from deapcache.datasets.scenes.export.staging import whole_folder
from deapcache.errors import LocationError, StorageFullError, UsageError


def _texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_holds_something_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    for folder, message in ((tmp_path, "not empty, it holds thesis.txt"), (tmp_path / "thesis.txt", "is a file")):
        with pytest.raises(UsageError, match=message):
            export_scenes("coco", folder, limit=1)
    assert _texts(tmp_path) == {"thesis.txt": "years"}


def test_the_stage_of_a_killed_export_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out" / ".partial").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"holds \.partial/.*one was killed.*delete the folder"):
        export_scenes("coco", tmp_path / "out", limit=1)


def test_a_folder_is_filled_at_the_end(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "deep" / "out") as stage:
        (stage / "part").mkdir()
        (stage / "part" / "one.txt").write_text("1")
        (stage / "two.txt").write_text("2")
        assert [path.name for path in (tmp_path / "deep" / "out").iterdir()] == [".partial"]
    assert _texts(tmp_path / "deep" / "out") == {"part/one.txt": "1", "two.txt": "2"}
    assert not (tmp_path / "deep" / "out" / ".partial").exists()


def test_what_the_file_system_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(LocationError, match=r"cannot write .*file/out: Not a directory"),
        whole_folder(tmp_path / "file" / "out"),
    ):
        pass
    with pytest.raises(StorageFullError, match="No space left"), whole_folder(tmp_path / "out"):
        Path("/dev/full").write_text("x")
    assert not (tmp_path / "out").exists()
