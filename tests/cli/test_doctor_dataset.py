"""``deapcache doctor --dataset``: what it prints and its exit code, on sound and broken folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from deapcache.datasets.checking import sample_rows
from deapcache.datasets.coco import CocoInstances


def break_images(root: Path, count: int) -> list[Path]:
    """Empty the first ``count`` validation images."""
    chosen = sorted((root / "val2017").iterdir())[:count]
    for path in chosen:
        path.write_bytes(b"")
    return chosen


def test_a_sound_folder_is_fine(cli, make_coco):
    root = make_coco(3, 2)
    done = cli("doctor", "--dataset", "coco", "--data-root", root)
    assert (done.code, done.err) == (0, "")
    assert "annotations/instances_val2017.json" in done.out
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.startswith(("train ", "val "))}
    assert rows["train"] == ["3", "118,287", "4", "3", "0", str(root / "train2017")]
    assert rows["val"] == ["2", "5,000", "3", "2", "0", str(root / "val2017")]
    assert "val: 4,998 of the official 5,000 images are not listed" in done.out
    assert "no problem: all 5 images" in done.out


def test_a_sample_is_called_one(cli, make_coco):
    root = make_coco(24, 1, size=(8, 8))
    done = cli("doctor", "--dataset", "coco", "--data-root", root)
    assert "no problem: 25 images are listed, their files are there and none is empty; 21 of them" in done.out
    assert "--full opens all" in done.out
    assert "all 25 images" in cli("doctor", "--dataset", "coco", "--data-root", root, "--full").out


def test_a_full_check_finds_what_a_sample_does_not(cli, make_coco):
    root = make_coco(1, 30, size=(16, 16))
    spared = next(row for row in range(30) if row not in sample_rows(30))
    broken = sorted((root / "val2017").iterdir())[spared]
    broken.write_bytes(broken.read_bytes()[:200])
    command = ["doctor", "--dataset", "coco", "--data-root", root]
    assert cli(*command).code == 0
    done = cli(*command, "--full")
    assert done.code == 1
    (line,) = [line for line in done.out.splitlines() if str(broken) in line]
    assert line.startswith("  val: cannot decode")
    assert "1 problem:" in done.out


def test_ten_problems_are_shown_and_the_others_counted(cli, make_coco):
    root = make_coco(1, 14, size=(8, 8))
    broken = break_images(root, 13)
    done = cli("doctor", "--dataset", "coco", "--data-root", root)
    assert done.code == 1
    assert "13 problems; the first 10, and 3 more:" in done.out
    shown = [line.strip() for line in done.out.splitlines() if line.startswith("  val: ")]
    assert shown == [f"val: {path} is empty (0 bytes)" for path in broken[:10]]


def test_json_has_all_problems(cli, make_coco):
    root = make_coco(2, 14, size=(8, 8))
    broken = break_images(root, 13)
    done = cli("doctor", "--dataset", "coco", "--data-root", root, "--json")
    assert done.code == 1
    report = json.loads(done.out)
    assert report["splits"]["val"] == {
        "images": 14, "official": 5000, "files": 15, "opened": 14, "problems": 13, "folder": str(root / "val2017"),
    }  # fmt: skip
    assert [one["problem"].split()[0] for one in report["problems"]] == [str(path) for path in broken]
    assert {one["split"] for one in report["problems"]} == {"val"}
    assert (report["full"], report["interrupted"]) == (False, False)


def test_a_dataset_that_is_not_there_says_what_is_expected(cli, tmp_path):
    done = cli("doctor", "--dataset", "coco", "--data-root", tmp_path / "nowhere")
    assert done.code == 1
    assert "expected under" in done.out
    assert "val2017/*.jpg" in done.out
    assert "1 problem:\n  coco is not under" in done.out
    report = json.loads(cli("doctor", "--dataset", "coco", "--data-root", tmp_path, "--json").out)
    assert report["splits"] == {}
    assert report["problems"][0]["split"] is None


def test_a_missing_split_is_a_problem_and_the_other_is_checked(cli, make_coco):
    root = make_coco(2, 2)
    (root / "annotations" / "instances_train2017.json").unlink()
    done = cli("doctor", "--dataset", "coco", "--data-root", root)
    assert done.code == 1
    assert "train: coco has no train split" in done.out
    lines = [line.split() for line in done.out.splitlines()]
    assert ["val", "2", "5,000", "3", "2", "0", str(root / "val2017")] in lines


def test_nothing_is_downloaded_for_scenes(cli, monkeypatch):
    monkeypatch.setattr("deapcache.datasets.checking.SAMPLE", 2)
    done = cli("doctor", "--dataset", "scenes")
    assert done.code == 0
    assert "300 images are listed; 4 of them" in done.out


def test_a_folder_of_ones_own_is_checked_by_its_name(cli, tmp_path):
    for split in ("train", "val"):
        for kind, mode in (("images", "RGB"), ("instances", "L")):
            (tmp_path / "mine" / split / kind).mkdir(parents=True)
            for name in "abc":
                Image.new(mode, (6, 4)).save(tmp_path / "mine" / split / kind / f"{name}.png")
    command = ["doctor", "--dataset", "folder:mine", "--data-root", tmp_path]
    assert cli(*command).code == 0
    for name in "ab":
        (tmp_path / "mine" / "val" / "instances" / f"{name}.png").unlink()
    done = cli(*command, "--json")
    assert done.code == 1
    report = json.loads(done.out)
    assert {one["split"] for one in report["problems"]} == {"val"}
    assert ["a.png" in one["problem"] for one in report["problems"]] == [True, False]
    assert ["b.png" in one["problem"] for one in report["problems"]] == [False, True]


def test_an_interrupted_check_shows_what_it_found(cli, make_coco, monkeypatch):
    root = make_coco(1, 6)
    (broken,) = break_images(root, 1)
    read = CocoInstances.read_image

    def interrupted(self, split, row):
        if (split, row) == ("val", 3):
            raise KeyboardInterrupt
        return read(self, split, row)

    monkeypatch.setattr(CocoInstances, "read_image", interrupted)
    done = cli("doctor", "--dataset", "coco", "--data-root", root, "--full")
    assert done.code == 130
    assert f"val: {broken} is empty" in done.out
    assert "no problem" not in done.out
    (line,) = done.err.splitlines()
    assert line.startswith("interrupted: 3 of 6 images of val were opened")


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--full"], "say which with --dataset"), (["--dataset", "coc"], "did you mean coco")]
)
def test_bad_requests_are_one_line(cli, arguments, says):
    done = cli("doctor", *arguments)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert says in line
