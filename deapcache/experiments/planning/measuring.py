"""Measuring what a plan counts on: forward passes of untrained backbones, training steps on made-up data."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from deapcache.annotations import get_annotation
from deapcache.backbones import arithmetic_key
from deapcache.errors import DeapcacheError
from deapcache.experiments.planning.rates import ForwardRate, Rates, StepRate
from deapcache.experiments.planning.work import StepGroup
from deapcache.extraction import choose_device, default_batch_size, provenance_facts, untrained_rate
from deapcache.machine import cpu_count, device_name, now, seconds_of
from deapcache.probing import ProbeConfig, ReadoutTrainer, StackedGroup, TaskSpec

Told = Callable[[str, int, int], None]
"""Called with what is being measured, how many things are done and how many there are."""

Failed = Callable[[str, Exception], None]
"""Called with what could not be measured and why."""

Job = tuple[str, Callable[[], dict[str, Any]]]
"""What is measured, and the function that does it and gives fields of :class:`Rates`."""

_OBJECTS = 7
"""Objects of a made-up image: COCO's training images have 7.3."""

_BASE_SIZE = (224, 224)
"""Of the images that are forwarded; bringing them to the backbone's size is part of the pass."""

_STEPS, _SECONDS = 10, 1.0
"""Steps that are timed; none is begun after so long."""


def measure_rates(
    forwards: Sequence[tuple[str, str]],
    groups: Sequence[StepGroup],
    device: str,
    *,
    told: Told = lambda *_: None,
    failed: Failed = lambda *_: None,
) -> Iterator[Rates]:
    """The rates of these (backbone, precision) and of the steps of these groups on ``device``, as each is measured.

    Backbones that differ in their weights alone are measured once, and so are groups whose steps are the same. Needs
    no weights, no dataset and no cache. What cannot be built here, or does not fit on the device, is handed to
    ``failed``, and the others follow.
    """
    chosen = choose_device(device)
    jobs = [*_forward_jobs(forwards, chosen), *_step_jobs(groups, chosen)]
    empty = Rates(device=machine_name(device), measured=now(), circumstances=_circumstances(chosen))
    for done, (what, measure) in enumerate(jobs):
        told(what, done, len(jobs))
        try:
            yield replace(empty, measured=now(), **measure())
        except (DeapcacheError, torch.OutOfMemoryError) as error:
            failed(what, error)
    told("", len(jobs), len(jobs))


def _forward_jobs(forwards: Sequence[tuple[str, str]], device: torch.device) -> Iterator[Job]:
    batch_size = default_batch_size(device)
    models: dict[tuple[str, str], list[str]] = {}
    for name, precision in forwards:
        models.setdefault((arithmetic_key(name), precision), []).append(name)
    for (_, precision), names in models.items():
        yield f"forward {names[0]}", partial(_forwards, names, precision, batch_size, device)


def _forwards(names: Sequence[str], precision: str, batch_size: int, device: torch.device) -> dict[str, Any]:
    rate = untrained_rate(names[0], _BASE_SIZE, precision, batch_size, device)
    found = [
        ForwardRate(backbone=name, precision=precision, batch_size=batch_size, images_per_second=rate) for name in names
    ]
    return {"forwards": tuple(found)}


def _step_jobs(groups: Sequence[StepGroup], device: torch.device) -> Iterator[Job]:
    for key, group in {group.key: group for group in groups}.items():
        yield f"step {key.task} {key.readout}", partial(_steps, group, device)


def _steps(group: StepGroup, device: torch.device) -> dict[str, Any]:
    return {"steps": (StepRate(key=group.key, seconds=measure_step(group, device)),)}


def _circumstances(device: torch.device) -> dict[str, Any]:
    facts = provenance_facts(device, default_batch_size(device))
    return {name: facts[name] for name in ("host", "python", "versions")} | {"threads": torch.get_num_threads()}


def machine_name(device: str) -> str:
    """Of the GPU, or of the processor with its number of cores."""
    chosen = choose_device(device)
    name = device_name(chosen)
    return name if chosen.type == "cuda" else f"{name} {cpu_count()} cores"


def measure_step(group: StepGroup, device: torch.device) -> float:
    """Seconds of one training step of all members: the median of up to ten, after one that is not timed.

    Features are noise and targets made up, with seven objects an image; reading from a cache is not in it.
    """
    key, posed = group.key, replace(group.posed, iterations=1 + _STEPS)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(key.batch_size, *key.grid, key.dim, generator=generator).to(device)
    guidance = torch.randint(0, 256, (key.batch_size, *key.output_size, 3), dtype=torch.uint8, generator=generator)
    maps = {name: made_up(name, posed, key.batch_size).to(device) for name in posed.task.annotations}
    posed.task.scan_targets(_surveyed(maps, key.surveyed, key.batch_size))
    bias = posed.task.output_bias(posed.task.target(maps))
    trainers = [
        ReadoutTrainer(posed, key.readout, seed=seed, lr=1e-3, device=device, output_bias=bias)
        for seed in range(key.members)
    ]
    stack, rows = StackedGroup(trainers, ProbeConfig().weight_decay), np.arange(key.batch_size)
    target = {key.task: posed.task.training_target(maps, rows, generator)}
    return _median(lambda: stack.step(features, guidance.to(device), target), device)


def made_up(annotation: str, posed: TaskSpec, images: int) -> torch.Tensor:
    """Targets of an annotation, (images, …) as target caches hold them: upright stripes, each an object."""
    height, width = posed.output_size
    stripes = torch.arange(width) * (_OBJECTS + 1) // width
    stripes = stripes.expand(images, height, width)
    if annotation == "instances":
        return stripes.to(torch.int32)
    if annotation == "depth":
        return 1 + stripes.to(torch.float32)
    if annotation == "classes":
        return (stripes % max(1, len(posed.classes))).to(torch.int16)
    kind = get_annotation(annotation)
    if not kind.columns:
        return torch.ones((images, *kind.item_shape(posed.output_size, 0)), dtype=getattr(torch, kind.dtype))
    side = width // (_OBJECTS + 1)
    image = [[0, 0, width, height, width * height, 3, 0]]
    objects = [[place * side, 0, side, height, side * height, 1, 1] for place in range(1, _OBJECTS + 1)]
    return torch.tensor(image + objects, dtype=torch.float64).expand(images, -1, -1).contiguous()


def _surveyed(
    maps: dict[str, torch.Tensor], images: int, batch: int
) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
    """The made-up targets as if they were of so many images, at least of one batch."""
    for start in range(0, max(images, batch), batch):
        yield np.arange(start, start + batch), maps


def _median(step: Callable[[], None], device: torch.device) -> float:
    step()
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < _STEPS and (not seconds or time.perf_counter() - begun < _SECONDS):
        seconds.append(seconds_of(step, device))
    return statistics.median(seconds)


def lacking(
    rates: Rates | None, forwards: Sequence[tuple[str, str]], groups: Sequence[StepGroup]
) -> tuple[list[tuple[str, str]], list[StepGroup]]:
    """Those that ``rates`` does not have."""
    if rates is None:
        return list(forwards), list(groups)
    return (
        [(name, precision) for name, precision in forwards if rates.forward(name, precision) is None],
        [group for group in groups if rates.step(group.key) is None],
    )
