"""``deapcache plan``: what it prints, what it keeps, and what it refuses."""

from __future__ import annotations

import json

import pytest
from deapcache_caches import served

from deapcache.experiments import speed
from deapcache.locations import LocalLocation

pytestmark = pytest.mark.usefixtures("one_thread")

ONE = "efficientnet-lite0-s16"
PIPELINE = f"""\
description: "two backbones"
backbones: [{ONE}, "{ONE}@untrained"]
iterations: 2
batch_size: 2
lr: 0.001
probes:
  - {{tasks: [foreground], dataset: coco}}
"""


@pytest.fixture
def plan(cli, tmp_path, home):
    """A function that plans the pipeline without any dataset."""
    file = tmp_path / "two.yaml"
    file.write_text(PIPELINE)

    def ran(*arguments: object):
        return cli("plan", file, "--home", home, "--data-root", tmp_path / "none", "--device", "cpu", *arguments)

    return ran


def rows(text: str, start: str) -> list[list[str]]:
    """The lines that begin so, as words."""
    return [line.split() for line in text.splitlines() if line.startswith(start)]


def test_it_needs_no_dataset_and_says_which_numbers_are_official(plan, home):
    done = plan()
    assert (done.code, done.err) == (0, "")
    assert ["coco", "train", "118,287", "official"] in rows(done.out, "coco")
    ((_, precision, images, there, to_do, rate, time, *_, known), _) = rows(done.out, ONE)
    assert (precision, images, there, to_do, rate, time, known) == (
        "fp32",
        "123,287",
        "0",
        "123,287",
        "–",
        "–",
        "unknown",
    )
    assert "no rate is known of 4 of 4 kinds of work: --measure measures them on this device, --rates FILE" in done.out
    assert "missing: dataset coco: " in done.out
    assert not LocalLocation(home.path).keys()


def test_what_is_measured_is_kept_and_used_the_next_time(plan, home, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "REFERENCE", ONE)
    done = plan("--measure")
    assert done.code == 0
    keys = LocalLocation(home.path).keys()
    assert [key.rpartition("-")[0] for key in keys] == [f"speed/{ONE}", "speed/training-steps"]
    assert f"are kept in {home}/speed" in done.err
    kept = [home.read(key) for key in keys]
    found = json.loads(plan("--json").out)
    assert {work["speed"]["known"] for work in found["features"]} == {"measured"}
    assert found["wall_seconds"] > 0
    assert plan("--measure").err == "", "nothing is left to be measured"
    assert [home.read(key) for key in keys] == kept
    file = tmp_path / "rates.json"
    file.write_text(json.dumps([json.loads(data) for data in kept]))
    for key in keys:
        home.delete(key)
    again = json.loads(plan("--json", "--rates", file).out)
    assert {name: again[name] for name in ("rates", "wall_seconds")} == {
        name: found[name] for name in ("rates", "wall_seconds")
    }
    assert json.loads(plan("--json").out)["rates"] is None


def test_of_a_web_server_no_speeds_are_read(plan, cli, home):
    assert cli("cache", "index", "--home", home).code == 0
    with served(home.path) as (url, _):
        done = plan("--home", url)
        assert (done.code, done.err) == (0, "")
        assert "no rate is known of 4 of 4 kinds of work" in done.out
        done = plan("--home", url, "--measure")
        assert (done.code, done.out) == (1, "")
        assert "is read only" in done.err


def test_a_file_of_rates_is_made_by_measuring(plan, home, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "REFERENCE", ONE)
    file = tmp_path / "rates.json"
    done = plan("--measure", "--rates", file)
    assert f"are kept in {file}" in done.err
    assert LocalLocation(home.path).keys() == []
    assert json.loads(plan("--json", "--rates", file).out)["wall_seconds"] > 0
    assert plan("--measure", "--rates", file).err == ""


def test_rates_of_another_device_are_not_mixed_with_this_ones(plan, home, tmp_path):
    file = tmp_path / "rates.json"
    other = {"schema": 1, "device": "other", "measured": "", "circumstances": {}, "forwards": [], "steps": []}
    file.write_text(json.dumps(other))
    done = plan("--measure", "--rates", file)
    assert done.code == 2
    assert "holds rates of other, and this device is" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--rates", "nowhere/rates.json"], 1, "--rates nowhere/rates.json: no such file"),
        (["--gpus", "0"], 2, "--gpus is 0: expected a number above 0"),
        (["nonsense"], 2, "unknown pipeline 'nonsense'"),
    ],
)
def test_bad_input_is_one_line(plan, arguments, code, says):
    done = plan(*arguments)
    assert done.code == code
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert says in line
