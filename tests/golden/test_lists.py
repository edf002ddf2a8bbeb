"""What ``list`` and ``plan`` print: backbones, datasets, tasks, readouts, and the amounts of a fixed grid."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from deapcache_golden import Golden, masked, quiet_surroundings, run, shown
from deapcache_golden_data import write_datasets

GRID = """\
description: "a grid of both kinds of feature shape"
backbones: [dinov2, efficientnet-lite0-s16, siglip-so]
seeds: [0, 1]
batch_size: 16
probes:
  - {tasks: [boundaries, foreground], dataset: coco, readouts: [deap, linear]}
  - {tasks: [depth], dataset: nyuv2, readouts: ["deap:8"], choices: {crop: eigen}}
  - {tasks: [segmentation], dataset: scenes, limit: 64, lr: [1e-3, 3e-4]}
"""

AT_HAND = [f"--set=probes.{place}.backbones=dinov2" for place in (3, 4, 5)]
"""Instead of a model that only timm knows: each time it is asked for, it is built."""

THIS_MACHINE = ("home", "free_bytes")


@pytest.fixture(autouse=True)
def _surroundings() -> Iterator[None]:
    with quiet_surroundings():
        yield


def test_backbones(golden: Golden) -> None:
    golden.json("lists/backbones.json", masked(run("list", "backbones", "--json").json, ["weights"]))
    table = run("list", "backbones").out
    (start,) = {line.index("weights") for line in table.splitlines()[:1]}
    golden.text("lists/backbones.txt", shown("\n".join(line[:start] for line in table.splitlines())))


@pytest.mark.parametrize("what", ["tasks", "readouts"])
def test_tasks_and_readouts(golden: Golden, what: str) -> None:
    golden.text(f"lists/{what}.txt", shown(run("list", what).out))
    golden.json(f"lists/{what}.json", run("list", what, "--json").json)


def test_parameters_of_readouts(golden: Golden) -> None:
    golden.text("lists/parameters.txt", shown(run("list", "readouts", "--params").out))
    golden.json("lists/parameters.json", run("list", "readouts", "--params", "--readout", "bicubic:32", "--json").json)


def test_datasets_that_are_there_and_that_are_not(golden: Golden, tmp_path: Path) -> None:
    data = write_datasets(tmp_path / "data")
    golden.text("lists/datasets.txt", shown(run("list", "datasets", "--data-root", data).out, {"DATA": data}))
    (tmp_path / "none").mkdir()
    found = run("list", "datasets", "--data-root", tmp_path / "none", "--json")
    golden.text("lists/datasets.json", shown(found.out, {"DATA": tmp_path / "none"}))


@pytest.mark.parametrize("name", ["grid", "table3", "table4", "table5", "figure4", "demo"])
def test_plans(golden: Golden, name: str, tmp_path: Path) -> None:
    pipeline = name
    if name == "grid":
        pipeline = str(tmp_path / "grid.yaml")
        Path(pipeline).write_text(GRID)
    places = {"HOME": tmp_path / "home", "DATA": tmp_path / "none"}
    for place in places.values():
        place.mkdir()
    command = ["plan", pipeline, "--home", places["HOME"], "--data-root", places["DATA"], "--device", "cpu"]
    command += AT_HAND if name == "figure4" else []
    text = re.sub(r"[\d.]+ [kMGT]?B free", "<free>", run(*command).out)
    golden.text(f"plans/{name}.txt", shown(text, places))
    if name == "grid":
        document = run(*command, "--json").out.replace(str(places["DATA"]), "DATA")
        golden.json(f"plans/{name}.json", masked(json.loads(document), THIS_MACHINE))
