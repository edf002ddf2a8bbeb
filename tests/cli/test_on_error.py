"""``extract --on-error``: an error that says how to go on, or the rest and a list of what was left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deapcache_odd_cases import write_sound

from deapcache.locations import LocalLocation

BACKBONE = "efficientnet-lite0-s16"


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A folder with four training images, one of which is empty, and two for validation."""
    for split, names in (("train", "abcd"), ("val", "xy")):
        for name in names:
            write_sound(tmp_path / "few" / split, name)
    (tmp_path / "few" / "classes.json").write_text('["wall", "floor", "chair"]')
    (tmp_path / "few" / "train" / "images" / "b.png").write_bytes(b"")
    return tmp_path / "few"


def test_stop_skip_probe_and_what_they_say(cli, few: Path, home: LocalLocation) -> None:
    extract = ["extract", "--dataset", "folder:few", "--data-root", few, "--backbone", BACKBONE, "--home", home]
    extract += ["--base-size", "64"]
    stopped = cli(*extract)
    assert stopped.code == 1
    assert "b.png: the file is empty" in stopped.err
    assert "--on-error skip" in stopped.err

    planned = cli(*extract, "--on-error", "skip", "--dry-run")
    assert planned.code == 0
    assert "left out of train, since they cannot be read: 1 images" in planned.out

    done = cli(*extract, "--on-error", "skip")
    assert done.code == 0
    assert "images folder:few/train: new cache" in done.err
    assert "differs from" in done.err
    assert "images, omitted" in done.err
    assert "left out of folder:few/train, since they cannot be read: 1 images" in done.out
    assert "  b: cannot decode" in done.out
    train, val = json.loads(cli(*extract, "--on-error", "skip", "--json").out)
    assert list(train["omitted"]) == ["b"]
    assert (train["images"], train["extracted"], val["omitted"]) == (3, 0, {})

    shown = json.loads(cli("cache", "info", train["digest"], "--home", home, "--json").out)
    assert shown[0]["recipe"]["omitted"] == {"images": 1, "ids": ["b"]}

    probed = cli("probe", "--task", "segmentation", "--iterations", "2", "--batch-size", "2", "--home", home)
    assert probed.code == 0, probed.err
    assert "segmentation · folder:few" in probed.out
    assert probed.out.count("left out of train, not readable when extracted: 1 (b)") == 1


def test_another_choice_is_a_usage_error(cli, few: Path, home: LocalLocation) -> None:
    extract = ["extract", "--dataset", "folder:few", "--data-root", few, "--backbone", BACKBONE, "--home", home]
    done = cli(*extract, "--on-error", "ignore")
    assert (done.code, "choose one of stop, skip" in done.err) == (2, True)


def test_a_folder_is_listed_and_must_be_named(cli, few: Path, home: LocalLocation) -> None:
    listed = cli("list", "datasets", "--data-root", few.parent)
    assert "folder:few train: 4 images; folder:few val: 2 images" in listed.out
    done = cli("extract", "--dataset", "folder", "--data-root", few.parent, "--backbone", BACKBONE, "--home", home)
    assert done.code == 2
    assert "is folder:few" in done.err
