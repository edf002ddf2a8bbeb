"""Speeds: what is timed, what it is held against, and how it is kept."""

from __future__ import annotations

import json
import statistics

import pytest
import torch
from deapcache_plugins import CONVOLUTION, forgotten_plugins, write_plugin

from deapcache import plugins
from deapcache.errors import UnknownNameError, UsageError
from deapcache.experiments import speed as module
from deapcache.experiments.speed import measure_speeds, time_backbone
from deapcache.results.speeds import Speed, speed_key, write_speed

ONE = "one-convolution"


def never(what: str, why: str) -> None:
    raise AssertionError(f"{what}: {why}")


@pytest.fixture
def small(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """A plugin's two backbones, one of which stands for the ViT-B/16 that everything is held against."""
    larger = CONVOLUTION.splitlines()[-1].replace(ONE, "larger").replace("64, grid=4", "512, grid=32")
    with forgotten_plugins():
        plugins.use([write_plugin(tmp_path, f"{CONVOLUTION}{larger}\n")])
        monkeypatch.setattr(module, "REFERENCE", ONE)
        yield


def make_speed(**changes) -> Speed:
    facts = {
        "kind": "backbone", "name": "timm:resnet18", "weights": "trained", "input": "images 224x224", "batch": 8,
        "seconds": (2.0, 1.0, 4.0), "reference_seconds": 0.5, "reference": "imagenet", "peak_memory_bytes": 10,
        "memory": "resident", "parameters": 5, "device": "CPU, 2 threads", "precision": "fp32", "threads": 2,
        "date": "2026-01-01T00:00:00+00:00", "versions": {},
    }  # fmt: skip
    return Speed(**{**facts, **changes})


def test_rates_and_factors_are_those_of_the_batches() -> None:
    one = make_speed()
    assert one.images_per_second == {"min": 2.0, "median": 4.0, "max": 8.0}
    assert one.runtime_factor == 4.0
    document = one.to_json()
    assert (document["relative"], document["runtime_factor"], document["batches"]) == (0.25, 4.0, 3)


def test_it_is_kept_under_its_name_and_device_and_replaced(home) -> None:
    key = write_speed(home, make_speed())
    assert key == speed_key(make_speed(seconds=(1.0,), date="later"))
    assert key.startswith("speed/timm_resnet18-")
    document = json.loads(home.read(key))
    assert (document["schema"], document["backbone"], document["device"]) == (1, "timm:resnet18", "CPU, 2 threads")
    write_speed(home, make_speed(seconds=(1.0,)))
    others = [make_speed(device="CPU, 4 threads"), make_speed(kind="readout", name="deap"), make_speed(name="x")]
    assert len({key, *(write_speed(home, other) for other in others)}) == len(home.keys("speed")) == 4
    assert json.loads(home.read(key))["seconds"] == [1.0]
    assert "backbone" not in json.loads(home.read(speed_key(others[1])))


def test_each_is_timed_in_its_own_process_against_a_reference_that_nobody_asked_for(small) -> None:
    told: list[str] = []
    problems: list[str] = []
    found = list(
        measure_speeds(
            ["larger@untrained", "larger"], device="cpu", batch=3, batches=4,
            progress=lambda what, *_: told.append(what), failed=lambda *problem: problems.extend(problem),
        )
    )  # fmt: skip
    assert told == [ONE, "larger@untrained", "larger", ""]
    assert problems[0] == "larger@untrained"
    assert "does not say how to build it without" in problems[1]
    (larger,) = found
    assert (larger.kind, larger.name, larger.reference) == ("backbone", "larger", ONE)
    assert larger.input == "images 512x512"
    assert all(len(one.seconds) == 4 and min(one.seconds) > 0 for one in found)
    assert larger.runtime_factor == statistics.median(larger.seconds) / larger.reference_seconds > 2
    assert (larger.parameters, larger.weights) == (6152, "trained")
    assert larger.peak_memory_bytes > 50_000_000


def test_weights_that_are_not_at_hand_are_not_fetched() -> None:
    torch.set_num_threads(1)
    labels = {}
    for name in ("timm:test_vit", "efficientnet-lite0-s16", "efficientnet-lite0-s16@untrained"):
        one = time_backbone(
            name, device="cpu", threads=1, precision="fp32", batch=1, batches=1, reference=name, reference_seconds=None
        )
        labels[name] = one.weights
    assert list(labels.values()) == ["untrained copy", "trained", "untrained"]


def test_wrong_requests_are_refused_before_anything_is_measured(small) -> None:
    def all_of(*arguments, **options) -> None:
        list(measure_speeds(*arguments, failed=never, progress=never, **options))

    with pytest.raises(UsageError, match="nothing to measure"):
        all_of([])
    with pytest.raises(UnknownNameError, match="unknown backbone 'dinov9'"):
        all_of(["dinov9"])
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        all_of([ONE], precision="fp8")
