"""``deapcache import``, and what can be done with what it makes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

EXPORTS = Path(__file__).parents[1] / "data" / "exports"
BACKBONE = "efficientnet-lite0-s16@untrained"


@pytest.mark.parametrize(("export", "task"), [("yolo-boxes", "detection"), ("cvat", "segmentation")])
def test_from_an_export_to_a_score(cli, tmp_path: Path, export: str, task: str) -> None:
    done = cli("import", EXPORTS / export, "--out", tmp_path / "birds")
    assert done.code == 0, done.err
    hint = done.out.splitlines()[-1]
    assert hint == f"next: deapcache extract --dataset folder:birds --data-root {tmp_path} --backbone dinov2"
    command = hint.removeprefix("next: deapcache ").split()[:-1]
    done = cli(*command, BACKBONE, "--base-size", "32x32", "--home", tmp_path / "home")
    assert done.code == 0, done.err
    ask = ["probe", "--dataset", "folder:birds", "--task", task, "--iterations", 2, "--batch-size", 2, "--json"]
    done = cli(*ask, "--device", "cpu", "--home", tmp_path / "home")
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)
    assert any(value is not None for value in result["prior"].values())
    if task == "detection":
        assert "train crowds targets" in result["caches"]
        done = cli(*ask[:3], "--task", "boundaries", "--home", tmp_path / "home")
        assert done.code == 1
        assert "if folder:birds has the annotation instances" in done.err


def test_what_was_found_and_what_was_left_out(cli, tmp_path: Path) -> None:
    source = tmp_path / "export"
    shutil.copytree(EXPORTS / "voc-boxes", source)
    for number in range(7):
        Image.new("RGB", (4, 4)).save(source / "JPEGImages" / f"extra{number}.png")
    done = cli("import", source, "--out", tmp_path / "birds")
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[:5] == [
        "read as voc",
        "images train 3, val 1",
        "7 objects: boxes without outline",
        "splits as the export has them (--val and --seed play no part)",
        "annotations boxes",
    ]
    assert lines[5] == "classes 3: background, crow 4, barn owl 3"
    assert lines[6] == "left out JPEGImages/extra0.png and 6 more: it has no XML file"
    assert lines[7] == f"all of it in {tmp_path / 'birds' / 'import.json'}"
    done = cli("import", source, "--out", tmp_path / "again", "--json")
    assert len(json.loads(done.out)["left_out"]) == 7
    done = cli("doctor", "--dataset", "folder:birds", "--data-root", tmp_path, "--full")
    assert done.code == 0, done.out
    done = cli("import", source, "--out", tmp_path / "birds")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
