"""Where training arrays live: what is chosen, what is refused, and that scores do not depend on it.

What a GPU would do is looked at as far as a machine without one goes: the choice, and that every way gathers the same
bytes. The ways of a GPU's own memory are run on the CPU's, which is a device to torch like any other.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deapcache_toys import probe, target_maps, volumes
from typer.testing import CliRunner

from deapcache.cache import mirror
from deapcache.cli.app import app
from deapcache.errors import UsageError
from deapcache.probing import ProbeConfig
from deapcache.probing.batches import (
    BatchStream,
    choose_residency,
    free_memory,
    image_order,
    one_ahead,
)
from deapcache.probing.config import RESIDENCIES

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("needed", "host", "device", "expected"),
    [
        (25, 100, None, "memory"),
        (26, 100, None, "stream"),
        (40, 100, 80, "gpu"),
        (41, 1000, 80, "memory"),
        (41, 164, 80, "memory"),
        (41, 163, 80, "stream"),
        (0, 0, None, "memory"),
        (1, 0, 0, "stream"),
    ],
)
def test_choice_by_what_fits(needed, host, device, expected) -> None:
    assert choose_residency(needed, None, host, device) == expected


@pytest.mark.parametrize(
    ("residency", "where"),
    [("gpu", "80 bytes of GPU"), ("memory", "1,000 bytes of host")],
)
def test_what_does_not_fit_is_refused_with_needed_and_free_bytes(residency, where) -> None:
    room = 80 if residency == "gpu" else 1000
    assert choose_residency(room, residency, 1000, 80) == residency
    with pytest.raises(
        UsageError, match=rf"residency {residency}: the training arrays take {room + 1:,} bytes.*{where}"
    ):
        choose_residency(room + 1, residency, 1000, 80)


def test_a_residency_that_needs_a_gpu_is_refused_without() -> None:
    with pytest.raises(UsageError, match="residency gpu needs a GPU, and training runs on cpu: choose memory"):
        ProbeConfig(residency="gpu")
    assert ProbeConfig(residency="gpu", device="cuda:1").residency == "gpu"


def test_the_command_line_tells_it_in_one_line(toys) -> None:
    base = ["probe", "--task", "foreground", "--dataset", "toys", "--home", str(toys), "--device", "cpu"]
    told = CliRunner().invoke(app, [*base, "--residency", "gpu"])
    assert isinstance(told.exception, UsageError)
    assert "\n" not in str(told.exception)
    told = CliRunner().invoke(app, [*base, "--residency", "disk"])
    assert str(told.exception) == f"unknown residency 'disk': choose one of {', '.join(RESIDENCIES)}"
    done = CliRunner().invoke(app, [*base, "--residency", "stream", "--iterations", "2", "--json"])
    assert '"residency": "stream"' in done.stdout


def test_free_memory_of_a_device_that_has_none_of_its_own() -> None:
    host, gpu = free_memory(CPU)
    assert gpu is None
    assert host > 0


@pytest.mark.parametrize("residency", ["gpu", "memory", "stream"])
def test_every_way_gives_the_cached_bytes(caches, residency) -> None:
    stream = BatchStream(caches, residency, CPU)
    order = list(image_order(0, caches.rows, iterations=9, batch_size=7))
    for rows, batch in zip(order, stream.batches(order), strict=True):
        np.testing.assert_array_equal(batch.features.numpy(), volumes("train")[rows].astype(np.float16))
        np.testing.assert_array_equal(batch.maps["depth"].numpy(), target_maps("train", "depth")[rows])


@pytest.mark.parametrize("count", [0, 1, 5])
def test_one_copy_is_under_way_while_the_one_before_is_used(count) -> None:
    told: list[str] = []

    def start(number):
        told.append(f"start {number}")
        return lambda: told.append(f"wait for {number}") or {"rows": torch.tensor([number])}

    found = []
    for tensors in one_ahead(start(number) for number in range(count)):
        found += tensors["rows"].tolist()
        told.append(f"use {found[-1]}")
    assert found == list(range(count))
    if count == 5:
        assert told[:7] == ["start 0", "start 1", "wait for 0", "use 0", "start 2", "wait for 1", "use 1"]


def test_a_batch_can_be_changed_without_changing_what_is_held(caches) -> None:
    for residency in ("gpu", "memory"):
        stream = BatchStream(caches, residency, CPU)
        first, again = (next(stream.batches([np.array([3, 5])])) for _ in range(2))
        first.features.zero_()
        np.testing.assert_array_equal(again.features.numpy(), volumes("train")[[3, 5]].astype(np.float16))
        (later,) = stream.batches([np.array([3, 5])])
        np.testing.assert_array_equal(later.features.numpy(), volumes("train")[[3, 5]].astype(np.float16))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_maps_and_images_are_mirrored_as_the_cache_does(dtype) -> None:
    for shape in ((2, 3, 5), (2, 3, 5, 3)):
        values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        np.testing.assert_array_equal(mirror("instances", torch.from_numpy(values)), mirror("instances", values))


def test_boxes_are_mirrored_as_the_cache_does() -> None:
    tables = np.random.default_rng(0).uniform(0, 300, (4, 6, 7))
    tables[..., 5] = np.random.default_rng(1).integers(0, 3, (4, 6))
    np.testing.assert_array_equal(mirror("boxes", torch.from_numpy(tables)), mirror("boxes", tables))


def test_scores_and_weights_are_the_same_whatever_was_chosen(toys) -> None:
    (chosen,), (memory,), (stream,) = (probe(toys, residency=name) for name in (None, "memory", "stream"))
    assert chosen.residency == "memory"
    assert chosen.scores == memory.scores == stream.scores
    for name, values in memory.weights.items():
        np.testing.assert_array_equal(values, stream.weights[name])
        np.testing.assert_array_equal(values, chosen.weights[name])
