"""Wall times of a plan against a simulation of what happens: shards, claims, slow GPUs, a slow store, and passes.

The simulation shares no code with the plan. It lets GPUs take shards one by one as ``docs/cluster.md`` says, events in
the order of their times; ``docs/planning.md`` states how far apart the two may be.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass
from functools import cache as once
from itertools import cycle, islice

import pytest

from deapcache.experiments import load_pipeline, plan_pipeline
from deapcache.experiments.plan import GridPlan, plan_grid, rates_for
from deapcache.locations import LocalLocation
from deapcache.results.speeds import Speed, StepSpeeds, add_to_rates_file

IN_FLIGHT = 2
"""Shards of one GPU that may be published while the next one is forwarded."""


@dataclass(frozen=True)
class World:
    """What a plan does not know."""

    slowness: tuple[float, ...]
    """Of each GPU: 1 is as fast as the one that was measured."""
    claim: float = 0.0
    """Seconds to claim a shard, which the one before hides except for the first of a cache."""
    bandwidth: float = float("inf")
    """Bytes a second that the store takes from all together, one shard after the other."""


def simulate_cache(shards: list[tuple[float, float]], world: World) -> float:
    """Seconds until all (forward seconds, bytes) are published; each GPU takes the next one when it is free."""
    free = [(world.claim, gpu) for gpu in range(len(world.slowness))]
    heapq.heapify(free)
    publishing: dict[int, list[float]] = {gpu: [] for _, gpu in free}
    store_free = end = 0.0
    waiting: list[tuple[float, int, float]] = []  # (forwarded at, GPU, bytes)
    queue = iter(shards)
    shard = next(queue, None)
    while shard is not None or waiting:
        # what is forwarded first is published first, so a shard is taken only when nothing is forwarded before that
        if shard is not None and (not waiting or (free and free[0][0] <= waiting[0][0])):
            start, gpu = heapq.heappop(free)
            heapq.heappush(waiting, (start + max(shard[0] * world.slowness[gpu], world.claim), gpu, shard[1]))
            shard = next(queue, None)
            continue
        forwarded, gpu, size = heapq.heappop(waiting)
        store_free = max(store_free, forwarded) + size / world.bandwidth
        end = max(end, store_free)
        publishing[gpu] = [*publishing[gpu], store_free][-IN_FLIGHT - 1 :]
        full = len(publishing[gpu]) > IN_FLIGHT
        heapq.heappush(free, (max(forwarded, publishing[gpu][0]) if full else forwarded, gpu))
    return end


def simulate_extraction(plan: GridPlan, world: World) -> float:
    """All caches of features one after the other: each waits for the last shard of the one before."""
    total = 0.0
    for work in plan.features:
        for one in work.caches:
            total += simulate_cache(shards_of(one, work.image_seconds), world)
    return total


def shards_of(cache, image_seconds: float) -> list[tuple[float, float]]:
    """(forward seconds, bytes) of each shard, the last of which has the rest of the images."""
    length = cache.shard_images
    counts = [min(length, cache.to_do - start) for start in range(0, cache.to_do, length)]
    return [(count * image_seconds, count * cache.item_bytes) for count in counts]


def simulate_probing(plan: GridPlan, world: World) -> float:
    """Whole passes, in the pipelines' order, each on the GPU that is free first."""
    free = [(0.0, gpu) for gpu in range(len(world.slowness))]
    for work in plan.passes:
        start, gpu = heapq.heappop(free)
        heapq.heappush(free, (start + work.gpu_seconds(plan.rates) * world.slowness[gpu], gpu))
    return max(free)[0]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A function that plans the grid of tables 3 and 4 on so many GPUs, at rates that were kept by a measurement."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "home").mkdir()
    home = LocalLocation(folder / "home")
    plans = [plan_pipeline(load_pipeline(name), home, folder / "none", device="cpu") for name in ("table3", "table4")]
    file = folder / "rates.json"
    unmeasured = plan_grid(plans)
    about = {"device": "a GPU", "threads": 1, "date": "2026-01-02T03:04:05+00:00", "versions": {}}
    images = 400
    for (_, precision), name in unmeasured.unmeasured_forwards().items():
        images += 37  # every backbone at a rate of its own
        add_to_rates_file(
            file,
            Speed(
                kind="backbone", name=name, weights="untrained copy", input="images", batch=8, seconds=(8 / images,),
                reference_seconds=0.01, reference="imagenet", peak_memory_bytes=1, memory="allocated on the GPU",
                parameters=1, precision=precision, **about,
            ),
        )  # fmt: skip
    seconds = {
        key: 0.001 * (1 + key.members + place % 5)
        for place, key in enumerate(sorted(unmeasured.unmeasured_steps(), key=str))
    }
    add_to_rates_file(file, StepSpeeds(seconds=seconds, **about))
    assert {document.get("backbone", "steps") for document in json.loads(file.read_text())} > {"steps"}

    @once
    def planned(gpus: int) -> GridPlan:
        return plan_grid(plans, gpus=gpus, rates=rates_for(home, "cpu", file))

    return planned


def features(plan: GridPlan):
    return next(stage for stage in plan.stages if stage.name == "features")


def probing(plan: GridPlan):
    return next(stage for stage in plan.stages if stage.name == "probing")


def caches(plan: GridPlan) -> list[tuple[float, float]]:
    """Of every cache, seconds of its largest shard on the measured GPU, and that shard's bytes."""
    return [max(shards_of(one, work.image_seconds)) for work in plan.features for one in work.caches if one.to_do]


@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_equal_gpus_and_a_fast_store_take_the_plans_time(tables, gpus) -> None:
    plan = tables(gpus)
    world = World((1.0,) * gpus)
    assert simulate_extraction(plan, world) == pytest.approx(features(plan).wall_seconds, rel=1e-9)
    assert simulate_probing(plan, world) == pytest.approx(probing(plan).wall_seconds, rel=1e-9)
    assert plan.gpu_seconds == pytest.approx(tables(1).gpu_seconds)
    assert tables(1).wall_seconds == pytest.approx(tables(1).gpu_seconds)


@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_claims_cost_one_a_cache(tables, gpus) -> None:
    plan, claim = tables(gpus), 0.002
    found = simulate_extraction(plan, World((1.0,) * gpus, claim=claim))
    wall = features(plan).wall_seconds
    assert wall < found <= wall + claim * len(caches(plan)) * (1 + 1e-9)


@pytest.mark.parametrize("gpus", [8, 64])
@pytest.mark.parametrize("slow", [1.5, 4.0])
def test_a_slow_gpu_costs_its_part_and_a_shard_of_it_a_cache(tables, gpus, slow) -> None:
    """One in eight is slower: never more than all its work at the joint rate and one of its shards for each cache."""
    plan = tables(gpus)
    slowness = tuple(islice(cycle((slow, *[1.0] * 7)), gpus))
    found = simulate_extraction(plan, World(slowness))
    joint = features(plan).gpu_seconds / sum(1 / one for one in slowness)
    assert joint <= found <= joint + slow * sum(seconds for seconds, _ in caches(plan))
    assert found > features(plan).wall_seconds


@pytest.mark.parametrize("gpus", [1, 8, 64])
@pytest.mark.parametrize("share", [0.25, 1.0, 4.0])
def test_a_slow_store_decides_where_its_time_is_longer(tables, gpus, share) -> None:
    """It writes all in ``share`` of the GPUs' time: the longer of both, and the first and last shards of a cache."""
    plan = tables(gpus)
    stage = features(plan)
    bandwidth = stage.written / (share * stage.wall_seconds)
    found = simulate_extraction(plan, World((1.0,) * gpus, bandwidth=bandwidth))
    # by cache, since one can be bound by the store and the next by the GPUs
    works = [(work, one) for work in plan.features for one in work.caches if one.to_do]
    shards = [shards_of(one, work.image_seconds) for work, one in works]
    alone = [simulate_cache(each, World((1.0,) * gpus)) for each in shards]
    longer = sum(max(wall, sum(size for _, size in each) / bandwidth) for wall, each in zip(alone, shards, strict=True))
    edges = sum(seconds + min(gpus, len(each)) * size / bandwidth for each in shards for seconds, size in [max(each)])
    assert longer <= found * (1 + 1e-9)
    assert found <= longer + edges


def test_the_simulation_itself_by_hand() -> None:
    """Three shards of 2 s and 10 bytes: on two GPUs the third begins at 2 s."""
    shards = [(2.0, 10.0)] * 3
    assert simulate_cache(shards, World((1.0,))) == 6
    assert simulate_cache(shards, World((1.0, 1.0))) == 4
    assert simulate_cache(shards, World((1.0, 3.0))) == 6, "the slow one takes the second, until 6 s"
    assert simulate_cache(shards, World((1.0, 1.0), claim=0.5)) == 4.5
    assert simulate_cache(shards, World((1.0,), bandwidth=2.5)) == 2 + 3 * 4, "the store takes 4 s each"
    assert simulate_cache([], World((1.0,))) == 0
