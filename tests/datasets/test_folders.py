"""What lies in a folder, told by names."""

from __future__ import annotations

from pathlib import Path

import pytest

from deapcache.datasets.io import describe_folder, missing_paths, require_all, stems
from deapcache.errors import MissingDataError


def test_folders_are_described_in_few_words(tmp_path: Path) -> None:
    assert describe_folder(tmp_path / "none") == "no such folder"
    assert describe_folder(tmp_path) == "an empty folder"
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").touch()
    assert describe_folder(tmp_path) == "a.txt, b/"
    for k in range(9):
        (tmp_path / f"c{k}").touch()
    assert describe_folder(tmp_path) == "a.txt, b/, c0, c1, c2, c3, c4, c5 and 3 more"


def test_stems_are_those_of_visible_files_of_the_suffix(tmp_path: Path) -> None:
    for name in ("a.png", "b.c.png", "d.jpg", ".e.png", "._a.png", "png"):
        (tmp_path / name).touch()
    assert stems(tmp_path, ".png") == {"a", "b.c"}
    assert stems(tmp_path / "none", ".png") == set()
    assert missing_paths((tmp_path, tmp_path / "a.png", tmp_path / "z")) == (str(tmp_path / "z"),)


def test_what_is_lacking_is_counted_and_the_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.png").touch()
    require_all(["b"], tmp_path, ".png", "advice")
    with pytest.raises(MissingDataError, match=r"lacks 2 of 3 files, the first is a\.png; look elsewhere"):
        require_all(["c", "b", "a"], tmp_path, ".png", "look elsewhere")
