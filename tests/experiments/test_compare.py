"""``deapcache compare`` from a folder of labelled images to its report, and learning curves."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from deapcache_golden import quiet_surroundings, run
from PIL import Image

import deapcache
from deapcache.datasets.folder import FolderDataset
from deapcache.datasets.importing import import_labels
from deapcache.errors import UsageError
from deapcache.experiments.compare import choose_task

PLUGIN = """
import torch
from torch import nn
from deapcache.backbones import register_backbone


class Colours(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, kernel_size=4, stride=4)

    def forward(self, images):
        return self.patches(images).permute(0, 2, 3, 1)


class Blind(Colours):
    def forward(self, images):
        return super().forward(torch.linspace(-1, 1, 32).expand_as(images))


register_backbone("colours", Colours, image_size=32, grid=8, dim=16, licence="ours", parameters=784)
register_backbone("blind", Blind, image_size=32, grid=8, dim=16)
"""
NAMES = ["grey", "red", "green", "blue"]
COLOURS = np.array([[128, 128, 128], [220, 40, 40], [40, 200, 40], [40, 40, 220]], np.uint8)
GIVEN = ("--backbone", "colours,blind", "--iterations", 240)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """(home, folder, what compare printed) of 40 and 16 images of grey with a square in one of three colours."""
    folder = tmp_path_factory.mktemp("compare")
    draw = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 16)):
        for kind in ("images", "labels"):
            (folder / "shapes" / split / kind).mkdir(parents=True)
        for place in range(count):
            label = np.zeros((32, 32), np.uint8)
            top, left = draw.integers(0, 16, 2)
            label[top : top + 16, left : left + 16] = 1 + place % 3
            Image.fromarray(COLOURS[label]).save(folder / "shapes" / split / "images" / f"{place}.png")
            Image.fromarray(label).save(folder / "shapes" / split / "labels" / f"{place}.png")
    (folder / "shapes" / "classes.json").write_text(json.dumps(NAMES))
    (folder / "toys.py").write_text(PLUGIN)
    home = folder / "home"
    with pytest.MonkeyPatch.context() as patch, quiet_surroundings(folder / "toys.py"):
        patch.setattr(FolderDataset, "base_size", (32, 32))
        patch.setenv("DEAPCACHE_HOME", str(home))
        patch.setenv("DEAPCACHE_DATA", str(folder))
        yield home, folder, run("compare", "folder:shapes", *GIVEN, "--json", "--out", folder / "report.html")


def test_the_backbone_that_sees_beats_the_one_that_does_not(compared) -> None:
    _, _, ran = compared
    assert ran.code == 0, ran.err
    found = ran.json
    assert found["task"] == "segmentation"
    assert "4 classes" in found["why"]
    assert found["verdict"]["ranking"] == ["colours", "blind"]
    assert found["verdict"]["headline"] == "colours is the best: it beats blind."
    (pair,) = found["verdict"]["pairs"]
    assert pair["is_sure"]
    assert pair["interval"][0] > 0
    assert (len(found["runs"]), len(found["curve"])) == (6, 10), "three seeds each; and one on each part of train"
    assert found["costs"][0] | {"backbone": "colours", "licence": "ours", "parameters": 784} == found["costs"][0]
    assert all(one["ms_per_image"] > 0 for one in found["costs"])
    blind = found["costs"][1]
    assert "†" in blind["marks"], "it is no better than a constant"
    assert any(note.startswith("†") for note in found["notes"])


def test_the_report_is_one_page_with_all_of_it(compared) -> None:
    _, folder, ran = compared
    page = (folder / "report.html").read_text()
    assert "colours is the best: it beats blind." in page
    assert page.count("data:image/webp;base64,") >= 2, "images side by side and the learning curve"
    assert all(f'<th scope="row">{name}</th>' in page for name in NAMES)
    (command,) = ran.json["commands"]
    assert command in page
    assert not ran.json["failures"]
    assert "no picture of" not in page
    assert "the paper's rows" not in page, "there are none"


def test_its_command_repeats_it_without_training(compared, monkeypatch) -> None:
    home, folder, ran = compared
    monkeypatch.chdir(folder)
    before = {file: file.stat().st_mtime_ns for file in (home / "results").iterdir()}
    again = run(*shlex.split(ran.json["commands"][0])[1:])
    assert again.code == 0, again.err
    assert "0 of 10 runs to do" in again.err
    assert "verdict: colours is the best: it beats blind." in again.out
    assert before == {file: file.stat().st_mtime_ns for file in (home / "results").iterdir()}


def test_a_learning_curve_is_nested_and_scored_on_all_validation_images(compared) -> None:
    home, folder, _ = compared
    options = {"dataset": "folder:shapes", "backbone": "colours", "readout": "linear", "lr": 0.01, "iterations": 3}
    curve = deapcache.probe("segmentation", home=home, train_limit=[6, 12, None], batch_size=4, **options)
    (plain,) = deapcache.probe("segmentation", home=home, batch_size=4, **options)
    by_images = {result.train_images: result for result in curve}
    assert set(by_images) == {6, 12, 40}
    assert {result.val_images for result in curve} == {16}
    assert by_images[40].run == plain.run, "all images are no subset: the same run as without"
    assert "train_subset" not in plain.protocol
    assert {by_images[count].protocol["train_subset"] for count in (6, 12)} == {0}
    with pytest.raises(UsageError, match="give one"):
        deapcache.probe("segmentation", home=home, limit=4, train_limit=2, **options)
    shown = run("results", "--home", home, "--readout", "linear", "--no-intervals")
    assert shown.code == 0, shown.err
    assert "train images" in shown.out
    file = folder / "curve.svg"
    assert run("figures", "label-efficiency", "--readout", "linear", "--home", home, "--out", file).code == 0
    assert "training images" in file.read_text()


def test_classes_confusions_and_worst_images_are_shown(compared, monkeypatch) -> None:
    home, _, _ = compared
    rows = run("results", "--home", home, "--readout", "deap", "--per-class", "--json").json
    blind = next(row for row in rows if row["backbone"] == "blind" and len(row["seeds"]) == 3)
    classes = {one["name"]: one for one in blind["per_class"]["classes"]}
    assert list(classes) == NAMES
    assert classes["grey"]["images"] == 16
    assert sum(one["share"] for one in classes.values()) == pytest.approx(1)
    seen = [one["score"] or 0.0 for one in classes.values()]
    assert blind["mean"]["mean_iou"] == pytest.approx(np.mean(seen), abs=0.05)
    assert blind["per_class"]["confusions"], "a blind one takes colours for something else"
    scores = [one["score"] for one in blind["per_class"]["images"]]
    assert scores == sorted(scores)
    text = run("results", "--home", home, "--readout", "deap", "--per-class").out
    assert all(part in text for part in ("classes: segmentation", "confusions: segmentation", "worst images:"))
    monkeypatch.setattr("deapcache.results.per_class.image_scores", lambda *_: 1 / 0)  # which the page does not show
    page = run("leaderboard", "--home", home, "--format", "html", "--per-class", "--no-paper").out
    assert "class by class" in page


def test_a_time_that_is_too_short_for_the_extraction_is_refused(compared, tmp_path) -> None:
    ran = run("compare", "folder:shapes", "--backbone", "colours", "--minutes", 1e-7, "--home", tmp_path / "home")
    assert ran.code == 2
    assert "give --minutes" in ran.err


def test_what_cannot_be_compared_is_said_in_the_words_of_the_command(compared, tmp_path) -> None:
    _, folder, _ = compared
    for given, text in (
        (("folder:shapes", "--backbone", "colors"), "unknown backbone 'colors': did you mean colours"),
        (("folder:shapes", "--backbone", "colours", "--task", "segmentasion"), "unknown task 'segmentasion'"),
        (
            ("folder:shapes", "--backbone", "colours", "--task", "depth"),
            "--task depth: folder:shapes has classes",
        ),
        (("shapes", "--backbone", "colours"), f"; the folder {folder / 'shapes'} is folder:shapes"),
    ):
        ran = run("compare", *given, "--home", tmp_path / "home")
        assert ran.code == 2, ran.err
        assert text in ran.err.splitlines()[-1]
    import_labels(Path(__file__).parents[1] / "data" / "exports" / "coco", tmp_path / "unscored", val=0)
    (tmp_path / "unscored" / "split.json").write_text('{"train": ["a", "c"]}')
    ran = run(
        "compare", "folder:unscored", "--backbone", "colours", "--data-root", tmp_path, "--home", tmp_path / "home"
    )
    assert ran.code == 2
    assert "folder:unscored has no images in val (train 2): add some, or import again with another --val" in ran.err


def test_training_is_as_long_as_the_time_allows(compared, tmp_path) -> None:
    home = tmp_path / "home"
    ran = run("compare", "folder:shapes", "--backbone", "colours", "--minutes", 0.15, "--home", home, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["iterations"] >= 20
    assert ran.json["seconds"] < 60, "nine seconds and what a busy machine adds"
    unsuited = ran.json["iterations"] <= 20 or ran.json["seconds"] < 4.5
    assert any("of the 0.15 minutes" in note for note in ran.json["notes"]) == unsuited
    assert list((home / "speed").iterdir()), "steps are measured once, and kept"


def test_few_images_of_many_classes_are_compared_by_an_easier_task(compared, tmp_path) -> None:
    import_labels(Path(__file__).parents[1] / "data" / "exports" / "coco", tmp_path / "few")
    task, why = choose_task(FolderDataset(tmp_path / "few"))
    assert task == "boundaries"
    assert re.search(r"the most that \d training images of \d classes tell: objects have outlines", why)
    assert "also allow segmentation, detection" in why
    _, folder, _ = compared
    assert choose_task(FolderDataset(folder / "shapes"))[0] == "segmentation", "ten images of each class"


def test_boxes_alone_are_compared_by_detection(tmp_path) -> None:
    export = Path(__file__).parents[1] / "data" / "exports" / "yolo-boxes"
    import_labels(export, tmp_path / "boxes")
    task, why = choose_task(FolderDataset(tmp_path / "boxes"))
    assert task == "detection"
    assert why.endswith("objects have boxes")


def test_a_score_that_no_image_defines_is_a_dash(compared, tmp_path) -> None:
    """The one validation image has no object that is large, which the main metric is of."""
    import_labels(Path(__file__).parents[1] / "data" / "exports" / "yolo-boxes", tmp_path / "boxes")
    report = tmp_path / "report.html"
    places = ("--data-root", tmp_path, "--home", tmp_path / "home", "--out", report)
    done = run("compare", "folder:boxes", "--backbone", "colours,blind", "--iterations", 2, *places)
    assert done.code == 0
    assert "verdict: No verdict" in done.out
    costs = report.read_text().partition('id="costs"')[2].partition("</section>")[0]
    assert "–" in costs
    assert "nan" not in costs
