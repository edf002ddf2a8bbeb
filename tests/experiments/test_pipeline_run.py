"""A run does what is missing and nothing else, whatever stopped or failed before."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from deapcache_pipelines import ONE, OTHER, SMALL, TWO, Counted, contents

from deapcache import locations
from deapcache.backbones import build
from deapcache.datasets import DATASETS
from deapcache.datasets.coco import CocoInstances
from deapcache.errors import MissingWeightsError, StorageFullError
from deapcache.experiments import load_pipeline, plan_pipeline, probe
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig

EXTRACTION = importlib.import_module("deapcache.extraction.extract")
CHILD = Path(__file__).with_name("pipeline_child.py")


@pytest.fixture(scope="module")
def small(tmp_path_factory, write_coco) -> tuple[LocalLocation, Counted]:
    """A home in which SMALL was run, for reading only, and what that took."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "home").mkdir()
    (folder / "small.yaml").write_text(SMALL)
    home, root = LocalLocation(folder / "home"), write_coco(folder / "data", train=8, val=4)
    return home, Counted(plan_pipeline(load_pipeline(str(folder / "small.yaml")), home, root, device="cpu"))


@pytest.fixture
def done(small: tuple[LocalLocation, Counted], home: LocalLocation) -> Counted:
    """The same in ``home``."""
    shutil.copytree(small[0].path, home.path, dirs_exist_ok=True)
    return small[1]


def test_a_second_run_does_nothing_and_gives_the_same(plan, home):
    first = Counted(plan(TWO))
    assert (first.steps, first.forwards) == (4, 2 * (8 + 4) + 8), "two passes of two steps; eight images calibrate"
    assert first.optimiser_steps > 0
    assert first.passes == [f"{ONE} · coco", f"{OTHER} · coco"]
    assert len(first.trained) == 10
    before = contents(home)
    second = Counted(plan(TWO))
    assert (second.steps, second.optimiser_steps, second.forwards, second.builds) == (0, 0, 0, 0)
    assert second.trained == set()
    assert second.outcome.results == first.outcome.results
    assert {result.run for result in second.outcome.results} == first.trained
    assert contents(home) == before


def test_what_a_read_home_holds_is_planned_and_run_without_a_forward(done, home, write, coco, tmp_path):
    results = done.outcome.results
    before = contents(home)
    own = LocalLocation(tmp_path / "own")
    layered = locations.home(own.path, read_homes=[home.path])
    ours = plan_pipeline(load_pipeline(write(SMALL)), layered, coco, device="cpu")
    assert (ours.forwards, ours.missing) == (0, 5)
    found = Counted(ours)
    assert (found.forwards, found.builds) == (0, 0)
    assert [r.metrics for r in found.outcome.results] == [r.metrics for r in results]
    assert {key.partition("/")[0] for key in own.keys()} == {"results", "readouts"}  # noqa: SIM118 - no dictionary
    assert contents(home) == before


def test_another_fit_is_another_experiment_in_the_same_home(done, plan):
    squashed = done.trained
    cropped = Counted(plan(SMALL, "fit=crop"))
    assert (cropped.forwards, len(cropped.trained & squashed)) == (8 + 4, 0)
    assert {r.caches["val"]["recipe"]["base_fit"] for r in cropped.outcome.results} == {"crop"}
    assert Counted(plan(SMALL)).forwards == Counted(plan(SMALL, "fit=crop")).forwards == 0


def test_what_is_asked_for_is_trained_in_one_pass_and_no_more(small):
    results = small[1].outcome.results
    assert {(r.task, r.readout, r.seed) for r in results} == {
        ("foreground", "deap", 0),
        ("foreground", "deap", 1),
        ("foreground", "no-sigma", 0),
        ("boundaries", "deap", 0),
        ("boundaries", "deap", 1),
    }
    assert {result.readouts_sharing for result in results} == {5}
    assert all(result.protocol["batch_size"] == 4 for result in results)


def test_probes_with_other_options_are_passes_of_their_own(plan):
    found = Counted(plan(SMALL, "probes.1.iterations=3", "probes.1.lr=0.01,0.02"))
    assert (found.steps, len(found.trained)) == (2 + 3, 4 + 2)
    assert {r.protocol["optimiser"]["lr"] for r in found.outcome.results if r.readout == "no-sigma"} == {0.01, 0.02}


@pytest.mark.usefixtures("done")
def test_other_results_of_the_home_stay_out(plan, home):
    (other,) = probe(home, ProbeConfig(tasks=["foreground"], dataset="coco", iterations=1, batch_size=4))
    assert home.exists(f"results/{other.result.run}.json")
    again = Counted(plan(SMALL)).outcome.results
    assert len(again) == 5
    assert other.result.run not in {result.run for result in again}


def test_views_are_extracted_for_training_and_drawn_from(plan, home):
    text = SMALL + "  - {tasks: [foreground], dataset: coco, views: [original, hflip]}\n"
    assert plan(text).forwards == 8 + 8 + 4
    first = Counted(plan(text))
    assert (first.forwards, len(first.trained), first.steps) == (8 + 8 + 4, 6, 2 + 2)
    with_views = [r for r in first.outcome.results if "views" in r.protocol]
    assert [r.caches["train hflip"]["recipe"]["view"] for r in with_views] == ["hflip"]
    again = Counted(plan(text))
    assert (again.forwards, again.steps, again.trained) == (0, 0, set())
    assert Counted(plan(SMALL)).trained == set(), "runs of original images are those that they were"
    assert plan(SMALL, "views=original,hflip").missing == 4, "but for the one above"


@pytest.mark.slow
def test_a_kill_between_two_passes_costs_nothing_that_was_done(plan, home, write, coco):
    file = write(TWO)
    command = [sys.executable, str(CHILD), file, str(coco), str(home)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.run(command, env=alone, capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    done = {key: data for key, data in contents(home).items() if key.startswith(("results", "readouts"))}
    assert len([key for key in done if key.endswith(".json")]) == 5
    resumed = Counted(plan(TWO))
    assert (resumed.forwards, resumed.steps, resumed.passes) == (0, 2, [f"{OTHER} · coco"])
    assert len(resumed.outcome.results) == 10
    assert done.items() <= contents(home).items()


def without_weights(name, **arguments):
    if name == ONE:
        raise MissingWeightsError(f"the weights of {name} are not here")
    return build(name, **arguments)


def test_a_backbone_that_fails_does_not_stop_the_next(plan, home, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(EXTRACTION, "build", without_weights)
        found = Counted(plan(TWO)).outcome
    (failure,) = found.failures
    assert failure == f"extraction of {ONE} over coco: the weights of {ONE} are not here"
    assert {result.backbone for result in found.results} == {OTHER}
    assert (len(found.results), found.missing) == (5, 5)
    again = Counted(plan(TWO))
    assert (again.outcome.failures, again.outcome.missing, again.passes) == ([], 0, [f"{ONE} · coco"])
    assert len(again.outcome.results) == 10


@pytest.fixture
def add_coco(monkeypatch):
    """A function that registers another dataset in COCO's format."""

    def add(name: str, root: Path, images_name: str) -> None:
        facts = {"name": name, "images_name": images_name, "open": classmethod(lambda cls, _: cls(root))}
        monkeypatch.setitem(DATASETS._entries, name, type("Another", (CocoInstances,), facts))

    return add


def test_datasets_that_share_their_images_are_extracted_once(plan, coco, add_coco):
    add_coco("labels", coco, "coco")
    text = SMALL + "  - {tasks: [foreground], dataset: labels}\n"
    found = plan(text)
    assert found.forwards == 12
    once = Counted(found)
    assert (once.forwards, once.builds, len(once.outcome.results)) == (12, 1, 6)
    assert [result.dataset for result in once.outcome.results].count("labels") == 1


def test_a_broken_image_fails_its_dataset_only(plan, coco, make_coco, add_coco):
    add_coco("copy", make_coco(train=2, val=1, name="whole"), "copy")
    victim = sorted((coco / "val2017").glob("*.jpg"))[2]
    victim.write_bytes(victim.read_bytes()[:200])
    found = Counted(plan(SMALL + "  - {tasks: [foreground], dataset: copy}\n")).outcome
    (failure,) = found.failures
    assert failure.startswith("dataset coco: ")
    assert str(victim) in failure
    assert ([result.dataset for result in found.results], found.missing) == (["copy"], 5)


def test_a_pass_that_diverges_does_not_stop_the_next(plan):
    text = TWO.replace("readouts: [no-sigma]", "readouts: [no-sigma], lr: 1e30, iterations: 60")
    found = Counted(plan(text)).outcome
    named = [failure.partition(": ")[0] for failure in found.failures]
    assert named == [f"probes of {ONE} · coco", f"probes of {OTHER} · coco"]
    assert "the loss is" in found.failures[0]
    assert (len(found.results), found.missing) == (8, 2)


@pytest.mark.parametrize("stage", ["extraction", "probes"])
def test_a_full_home_ends_it(plan, monkeypatch, stage):
    if stage == "probes":
        Counted(plan(SMALL, "probes.0.seeds=0"))
    publish = LocalLocation.publish

    def full(self, key, data, *, replace=False):
        if stage == "extraction" or key.startswith("results"):
            raise StorageFullError(f"{self} is full")
        return publish(self, key, data, replace=replace)

    monkeypatch.setattr(LocalLocation, "publish", full)
    with pytest.raises(StorageFullError, match="is full"):
        Counted(plan(SMALL))


def test_an_error_that_nobody_expects_is_not_swallowed(plan, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(EXTRACTION, "build", broken)
    with pytest.raises(ZeroDivisionError):
        Counted(plan(SMALL))


def test_what_is_left_out_is_a_failure(plan):
    found = Counted(plan(SMALL + "  - {tasks: [foreground], dataset: coco, readouts: [featup]}\n")).outcome
    (failure,) = found.failures
    assert "featup is left out" in failure
    assert (len(found.results), found.missing) == (5, 1)


def test_targets_that_a_whole_feature_cache_lacks_are_made_without_the_backbone(plan, home):
    Counted(plan(SMALL, "probes.0.seeds=0"))
    for key in home.keys("targets"):
        home.delete(key)
    found = Counted(plan(SMALL))
    assert (found.builds, found.forwards) == (0, 0)
    assert len(found.outcome.results) == 5


def test_what_cannot_be_read_is_left_out_when_the_pipeline_says_so(plan, coco):
    victim = min((coco / "train2017").iterdir())
    victim.write_bytes(b"")
    stopped = Counted(plan(SMALL)).outcome
    assert "--on-error skip" in stopped.failures[0]
    skipped = Counted(plan(SMALL, "on_error=skip"))
    assert (skipped.outcome.failures, len(skipped.trained)) == ([], 5)
    for result in skipped.outcome.results:
        assert result.train_images == 7
        assert result.caches["train"]["recipe"]["omitted"] == {"images": 1, "ids": [victim.stem]}
    again = Counted(plan(SMALL, "on_error=skip"))
    assert (again.steps, again.forwards) == (0, 0)
