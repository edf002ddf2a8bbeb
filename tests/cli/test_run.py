"""``deapcache run``: the plan, the tables, and what went wrong."""

from __future__ import annotations

import json

import pytest

from deapcache.locations import LocalLocation

pytestmark = pytest.mark.usefixtures("one_thread")

ONE = "efficientnet-lite0-s16"
PIPELINE = f"""\
description: "a few steps"
layout: [plain, table5]
backbones: [{ONE}]
iterations: 2
batch_size: 4
lr: 0.001
probes:
  - {{tasks: [foreground], dataset: coco, readouts: [deap, no-sigma]}}
"""


@pytest.fixture
def run(cli, tmp_path, make_coco, home):
    """A function that runs the pipeline with further arguments."""
    file, root = tmp_path / "few.yaml", make_coco(train=8, val=4)

    def ran(*arguments: object, text: str = PIPELINE):
        file.write_text(text)
        return cli("run", file, "--home", home, "--data-root", root, "--device", "cpu", *arguments)

    return ran


def test_the_tables_come_last_and_a_second_run_prints_the_same(run, home):
    done = run()
    assert done.code == 0, done.err
    assert f"few: 12 forwards and 2 of 2 runs to do\nextracted {ONE} over coco/train: 8 images" in done.err
    assert "foreground · coco" in done.out
    assert "Table 5" in done.out
    pictures = [line.removeprefix("picture: ") for line in done.out.splitlines() if line.startswith("picture: ")]
    assert len(pictures) == 2
    assert all(home.exists(picture.removeprefix(f"{home}/")) for picture in pictures)
    again = run()
    assert (again.code, again.out) == (0, done.out)
    assert again.err == "few: 0 forwards and 0 of 2 runs to do\n"


def test_pictures_that_cannot_be_written_are_notes_and_cost_no_run(run, home):
    names = json.loads(run("--json").out)["trained"]
    for key in home.keys("results"):
        home.delete(key)
    for name in names:
        (home.path / "results" / f"{name}.png").mkdir(parents=True)
    done = run()
    assert done.code == 0
    assert all(f"no picture of {name}, which is saved: " in done.err for name in names)
    assert all(home.exists(f"results/{name}.json") for name in names)
    assert "picture: " not in done.out


def test_a_dry_run_prints_the_plan_and_makes_nothing(run, home):
    done = run("--dry-run", "--set", "seeds=0,1,2")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "few: a few steps"
    features, licence = [line.split() for line in lines if line.startswith(ONE)]
    assert features[:5] == [ONE, "fp32", "12", "0", "12"]
    assert features[-4:] == ["526.8", "kB", "12", "measured"]
    assert "licence" in " ".join(licence)
    (row,) = [line.split() for line in lines if line.startswith("few ")]
    assert row[:9] == ["few", "coco", "foreground", "1", "6", "0", "6", "2", "12"]
    for words in ("measured rates: on ", "to do: 12 forwards", "6 of 6 runs, 12 training steps", "free"):
        assert words in done.out
    assert not LocalLocation(home.path).keys()


def test_json_is_one_document(run):
    plan = json.loads(run("--dry-run", "--json").out)
    assert (plan["forwards"], plan["missing"], plan["steps"], plan["problems"]) == (12, 2, 4, [])
    outcome = json.loads(run("--json").out)
    assert [result["readout"] for result in outcome["results"]] == ["deap", "no-sigma"]
    assert sorted(outcome["trained"]) == [result["run"] for result in outcome["results"]]
    assert json.loads(run("--json").out)["trained"] == []


def test_what_is_missing_is_told_and_the_rest_planned(run, home):
    text = PIPELINE + "  - {tasks: [depth], dataset: nowhere}\n"
    dry = run("--dry-run", text=text)
    assert dry.code == 1
    assert "missing: dataset nowhere: unknown dataset 'nowhere'" in dry.out
    assert "features" in dry.out
    done = run(text=text)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: pipeline few cannot run: dataset nowhere")
    assert not LocalLocation(home.path).keys()


def test_failures_are_told_at_the_end(run, monkeypatch):
    done = run(text=PIPELINE + "  - {tasks: [boundaries], dataset: coco, readouts: [featup]}\n")
    assert done.code == 1
    assert "foreground · coco" in done.out
    first, *_, failed, last = done.err.splitlines()
    assert first == "few: 12 forwards and 2 of 3 runs to do"
    assert failed.startswith("failed: few: probes.1: featup is left out")
    assert last == "1 of 3 runs are missing; the same command tries them again"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "seeds=zero"], "--set seeds=zero: seeds.0: expected a whole number"),
        (["--set", "seed=1"], "did you mean seeds?"),
        (["--set", "seeds"], "--set takes KEY=VALUE"),
    ],
)
def test_bad_settings_are_usage_errors(run, arguments, says):
    done = run(*arguments)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_a_name_that_is_no_pipeline_is_a_usage_error(cli, home):
    done = cli("run", "table55", "--home", home)
    assert done.code == 2
    assert "did you mean table5" in done.err


def test_the_papers_tables_can_be_planned_without_data(cli, home, tmp_path):
    done = cli("run", "table5", "--home", home, "--data-root", tmp_path, "--dry-run", "--device", "cpu")
    assert done.code == 1
    assert "missing: dataset coco: " in done.out
    assert "to do: 382,947 forwards" in done.out, "three backbones over the official numbers of images"


def test_the_demo_is_the_pipeline_of_that_name(cli, home):
    done = cli("run", "demo", "--home", home, "--dry-run", "--json", "--device", "cpu")
    plan = json.loads(done.out)
    assert (done.code, plan["problems"]) == (0, [])
    assert {p["dataset"] for p in plan["passes"]} == {"scenes"}
