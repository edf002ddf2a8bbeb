"""``deapcache plan``: what it prints, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import re

import pytest

from deapcache.locations import LocalLocation

pytestmark = pytest.mark.usefixtures("one_thread")

ONE = "efficientnet-lite0-s16"
PIPELINE = f"""\
description: "two backbones"
backbones: [{ONE}, "{ONE}@untrained"]
iterations: 2
batch_size: 2
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
    assert "no rate is known of 4 of 4" in done.out
    assert "missing: dataset coco: " in done.out
    assert not LocalLocation(home.path).keys()


def test_estimates_are_never_called_measured(plan):
    done = plan("--tflops", 1, "--utilisation", 0.5, "--probe-utilisation", 0.1, "--gpus", 4, "--read", 2, "--write", 1)
    assert "estimated from 0.487 GFLOP an image at 0.5 TFLOP/s" in done.out
    assert "measured rates" not in done.out
    assert "estimated, not measured: 4 of 4 rates" in done.out
    assert "store: read 2.0 GB/s, write 1.0 GB/s" in done.out
    # two backbones: 123,287 images each of 0.486537856 GFLOP at 0.5 TFLOP/s are 240 s
    assert re.search(r"GPU hours: [\d.]+, of which 0.07 of extraction and [\d.]+ of probing; wall time \d", done.out)
    (total,) = rows(done.out, "total")
    assert "–" not in total


def test_what_is_measured_is_kept_and_used_the_next_time(plan, home, tmp_path):
    done = plan("--measure")
    assert done.code == 0
    (key,) = LocalLocation(home.path).keys()
    assert key.startswith("rates/")
    assert f"are kept in {home}/{key}" in done.err
    kept = home.read(key)
    again = plan("--json")
    found = json.loads(again.out)
    assert {work["speed"]["known"] for work in found["features"]} == {"measured"}
    assert found["wall_seconds"] > 0
    assert plan("--measure").err == "", "nothing is left to be measured"
    assert home.read(key) == kept
    file = tmp_path / "rates.json"
    file.write_bytes(kept)
    home.delete(key)
    assert json.loads(plan("--json", "--rates", file).out)["rates"] == found["rates"]
    assert json.loads(plan("--json").out)["rates"] is None


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
        (["--utilisation", "0.4"], 2, "are shares of --tflops"),
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
