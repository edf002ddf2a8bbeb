"""Measuring speeds: of backbones, relative to ViT-B/16 at 224 (section 5.4 of the paper), and of training steps."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from deapcache.annotations import get_annotation
from deapcache.backbones import AUTOCAST, arithmetic_key, build, describe, weights_status
from deapcache.errors import DeapcacheError, UsageError, first_line, require_choice
from deapcache.extraction import choose_device
from deapcache.machine import device_name, keep_freed_memory, now, processor_model, seconds_of, versions
from deapcache.probing import ProbeConfig, ReadoutTrainer, StackedGroup, TaskSpec
from deapcache.processes import process_pool, refuse_unguarded
from deapcache.results.speeds import BACKBONE, Speed, StepKey, with_precision

REFERENCE = "imagenet"
"""The ViT-B/16 at 224 that others are held against; any of that architecture would do."""

BATCH, BATCHES = 8, 10
"""Section 5.4: "ten batches with eight samples each in inference mode"."""

Progress = Callable[[str, int, int], None]
"""Called with what is being measured, how many things are done and how many there are."""

Failed = Callable[[str, str], None]
"""Called with what could not be measured, and why."""

TRAINED, UNTRAINED, COPY = "trained", "untrained", "untrained copy"
_AT_HAND = ("here", "with the plugin")
_WARM_UP = 2
"""Batches that are not timed: the first ones choose algorithms and fetch memory."""
_PACKAGES = ("deapcache", "torch", "timm", "open_clip_torch")

_STEPS, _FEWEST_STEPS, _STEP_SECONDS = 10, 3, 1.0
"""Training steps that are timed, at most and at least; after so many seconds no more than that are begun."""
_OBJECTS = 7
"""Objects of a made-up image: COCO's training images have 7.3."""


# Backbones


def measure_speeds(
    backbones: Sequence[str],
    *,
    device: str = "auto",
    precision: str = "fp32",
    batch: int = BATCH,
    batches: int = BATCHES,
    progress: Progress = lambda *_: None,
    failed: Failed,
) -> Iterator[Speed]:
    """The speeds of these, each as it is measured, after two batches that are not timed.

    ViT-B/16 at 224 is measured first in any case, and given where it is asked for. A backbone sees images of its own
    size that lie on the device; weights that are not at hand are not fetched: an untrained copy takes as long.

    What cannot be built or does not fit is handed to ``failed``, and the others follow. Raises
    :class:`UnknownNameError` and :class:`UsageError` before anything is measured, and :class:`DeapcacheError` where the
    reference cannot be measured.
    """
    refuse_unguarded()
    require_choice("precision", precision, AUTOCAST)
    if not backbones:
        raise UsageError("nothing to measure: name backbones with --backbone")
    wanted = list(dict.fromkeys(describe(name).name for name in backbones))
    same = arithmetic_key(REFERENCE)
    reference = next((name for name in wanted if arithmetic_key(name) == same), describe(REFERENCE).name)
    names = list(dict.fromkeys([reference, *wanted]))
    time_one = partial(
        time_backbone,
        device=str(choose_device(device)),
        threads=torch.get_num_threads(),
        precision=precision,
        batch=batch,
        batches=batches,
        reference=reference,
    )
    reference_seconds = None
    for done, name in enumerate(names):
        progress(name, done, len(names))
        try:
            # its own process: peak memory is of it alone, and nothing that was measured before is in its caches
            with process_pool(1, name) as pool:
                speed = pool.submit(time_one, name, reference_seconds=reference_seconds).result()
        except (DeapcacheError, torch.OutOfMemoryError) as error:
            if name == reference:
                raise
            failed(name, first_line(error))
            continue
        reference_seconds = speed.reference_seconds
        if name in wanted:
            yield speed
    progress("", len(names), len(names))


def device_label(device: torch.device) -> str:
    """What speeds can be compared on: ``NVIDIA H100 80GB HBM3``, ``Intel Xeon, 2 threads of 4``."""
    if device.type == "cuda":
        return device_name(device)
    threads = torch.get_num_threads()
    return f"{processor_model()}, {threads} thread{'s' if threads > 1 else ''} of {os.cpu_count()}"


def package_versions() -> dict[str, str]:
    """Of Python and of what speeds depend on."""
    return {"python": platform.python_version(), **versions(*_PACKAGES)}


def time_backbone(
    name: str,
    *,
    device: str,
    threads: int,
    precision: str,
    batch: int,
    batches: int,
    reference: str,
    reference_seconds: float | None,
) -> Speed:
    """Time batches of one backbone in inference mode, in this process; raises what building it raises.

    ``reference_seconds`` is what a batch of the backbone ``reference`` takes; None: this is the reference.
    """
    torch.set_num_threads(threads)
    place = choose_device(device)
    entry = describe(name)
    at_hand = weights_status(name) in _AT_HAND
    backbone = build(name if entry.untrained or at_hand else entry.as_untrained().name, precision=precision).to(place)
    height, width = backbone.image_size
    images = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, device=place)
    with keep_freed_memory():  # as extraction does
        for _ in range(_WARM_UP):
            backbone(images)
        _reset_peak(place)
        seconds = tuple(seconds_of(lambda: backbone(images), place) for _ in range(batches))
    return Speed(
        kind=BACKBONE,
        name=name,
        weights=UNTRAINED if entry.untrained else TRAINED if at_hand else COPY,
        input=f"images {height}x{width}",
        batch=batch,
        seconds=seconds,
        reference_seconds=statistics.median(seconds) if reference_seconds is None else reference_seconds,
        reference=reference,
        peak_memory_bytes=_peak(place),
        memory="allocated on the GPU" if place.type == "cuda" else "resident",
        parameters=sum(parameter.numel() for parameter in backbone.module.parameters()),
        device=with_precision(device_label(place), precision),
        precision=precision,
        threads=threads,
        date=now(),
        versions=package_versions(),
    )


def _reset_peak(device: torch.device) -> None:
    """Forget the peak of building: a checkpoint that is read is in memory twice."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: then the peak of building counts, too
        return


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


# Training steps


def measure_steps(
    groups: Mapping[StepKey, TaskSpec],
    device: torch.device,
    *,
    progress: Progress = lambda *_: None,
    failed: Failed = lambda *_: None,
) -> Iterator[tuple[StepKey, float]]:
    """The seconds of a training step of each, as it is measured; see :func:`measure_step`.

    What cannot be built or does not fit is handed to ``failed``, and the others follow.
    """
    for done, (key, spec) in enumerate(groups.items()):
        what = f"step {key.task} {key.readout}"
        progress(what, done, len(groups))
        try:
            seconds = measure_step(key, spec, device)
        except (DeapcacheError, torch.OutOfMemoryError) as error:
            failed(what, first_line(error))
        else:
            yield key, seconds
    progress("", len(groups), len(groups))


def measure_step(key: StepKey, spec: TaskSpec, device: torch.device) -> float:
    """Seconds of one training step of all members: the median of three to ten, after one that is not timed.

    Features are noise and targets made up, with seven objects an image; reading from a cache is not in it.
    """
    spec = replace(spec, iterations=1 + _STEPS)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(key.batch_size, *key.grid, key.dim, generator=generator).to(device)
    guidance = torch.randint(0, 256, (key.batch_size, *key.output_size, 3), dtype=torch.uint8, generator=generator)
    maps = {name: synthetic_targets(name, spec, key.batch_size).to(device) for name in spec.task.annotations}
    # the same targets as if they were of all training images, at least of one batch
    starts = range(0, max(key.surveyed, key.batch_size), key.batch_size)
    spec.task.scan_targets((np.arange(start, start + key.batch_size), maps) for start in starts)
    bias = spec.task.output_bias(spec.task.target(maps))
    trainers = [
        ReadoutTrainer(spec, key.readout, seed=seed, lr=1e-3, device=device, output_bias=bias)
        for seed in range(key.members)
    ]
    stack = StackedGroup(trainers, ProbeConfig().weight_decay)
    target = {key.task: spec.task.training_target(maps, np.arange(key.batch_size), generator)}

    def step() -> None:
        stack.step(features, guidance.to(device), target)

    step()
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < _FEWEST_STEPS or (len(seconds) < _STEPS and time.perf_counter() - begun < _STEP_SECONDS):
        seconds.append(seconds_of(step, device))
    return statistics.median(seconds)


def synthetic_targets(annotation: str, spec: TaskSpec, images: int) -> torch.Tensor:
    """Targets of an annotation, (images, …) as target caches hold them: upright stripes, each an object."""
    height, width = spec.output_size
    stripes = torch.arange(width) * (_OBJECTS + 1) // width
    stripes = stripes.expand(images, height, width)
    if annotation == "instances":
        return stripes.to(torch.int32)
    if annotation == "depth":
        return 1 + stripes.to(torch.float32)
    if annotation == "classes":
        return (stripes % max(1, len(spec.classes))).to(torch.int16)
    kind = get_annotation(annotation)
    if not kind.columns:
        return torch.ones((images, *kind.item_shape(spec.output_size, 0)), dtype=getattr(torch, kind.dtype))
    side = width // (_OBJECTS + 1)
    image = [[0, 0, width, height, width * height, 3, 0]]
    objects = [[place * side, 0, side, height, side * height, 1, 1] for place in range(1, _OBJECTS + 1)]
    return torch.tensor(image + objects, dtype=torch.float64).expand(images, -1, -1).contiguous()
