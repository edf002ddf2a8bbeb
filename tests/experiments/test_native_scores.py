"""``--score-size native`` reads the dataset's own files, which must be those that the targets are from."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from deapcache_pipelines import ONE

import deapcache
from deapcache.datasets import open_dataset
from deapcache.errors import DataError, MissingDataError
from deapcache.experiments import load_pipeline, plan_pipeline, run_pipeline
from deapcache.extraction import ExtractionSettings, extract
from deapcache.locations import LocalLocation

GIVEN = {"dataset": "coco", "iterations": 2, "batch_size": 4, "readout": "linear", "lr": 0.01, "device": "cpu"}


@pytest.fixture(scope="module")
def made(tmp_path_factory, write_coco):
    """(home, data root) of coco's features and targets."""
    folder = tmp_path_factory.mktemp("native")
    (folder / "home").mkdir()
    root, home = write_coco(folder / "data", 4, 3), LocalLocation(folder / "home")
    list(extract([ONE], open_dataset("coco", root), home, settings=ExtractionSettings(device="cpu")))
    return home, root


def test_scores_are_over_every_pixel_of_the_files(made, tmp_path) -> None:
    home, root = made
    dataset = open_dataset("coco", root)
    (run,) = deapcache.probe("foreground", home=home, score_size="native", data_root=root, **GIVEN)
    maps = [dataset.read_annotation("val", row, "instances") for row in range(3)]
    statistics = deapcache.results.load_statistics(home, run.run)
    assert statistics.run["valid"].tolist() == [one.size for one in maps]
    assert statistics.run["positive"].tolist() == [int((one != 0).sum()) for one in maps]
    assert len({one.shape for one in maps}) >= 1
    (plain,) = deapcache.probe("foreground", home=home, **GIVEN)
    assert plain.run != run.run
    assert set(deapcache.results.load_statistics(home, plain.run).run["valid"]) == {224 * 224}
    text = (
        f"backbones: [{ONE}]\nreadouts: [linear]\niterations: 2\nbatch_size: 4\nlr: 0.01\n"
        "probes:\n  - {tasks: [foreground], dataset: coco, score_size: native}\n"
    )
    (tmp_path / "native.yaml").write_text(text)
    plan = plan_pipeline(load_pipeline(str(tmp_path / "native.yaml")), home, root, device="cpu")
    assert (plan.missing, plan.forwards) == (0, 0), "the same run"
    assert [result.run for result in run_pipeline(plan).results] == [run.run]


def test_files_that_are_missing_or_changed_are_told_before_training(made, tmp_path) -> None:
    home, root = made

    def refused(error: type[Exception], words: str, place) -> None:
        with pytest.raises(error, match=words) as found:
            deapcache.probe(
                "foreground", home=home, results_home=tmp_path, score_size="native", data_root=place, **GIVEN
            )
        assert "\n" not in str(found.value)
        assert not list(tmp_path.glob("results/*"))

    refused(MissingDataError, "--data-root", tmp_path / "nowhere")
    shutil.copytree(root, tmp_path / "changed")
    (file,) = (tmp_path / "changed").rglob("instances_val2017.json")
    document = json.loads(file.read_text())
    document["annotations"] = document["annotations"][1:]
    file.write_text(json.dumps(document))
    refused(DataError, "another annotation instances.*--data-root", tmp_path / "changed")
    document["images"] = document["images"][1:]
    kept = {image["id"] for image in document["images"]}
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] in kept]
    file.write_text(json.dumps(document))
    refused(DataError, "another image list", tmp_path / "changed")
    np.testing.assert_equal(len(kept), 2)
