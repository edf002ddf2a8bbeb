"""Measuring speeds of backbones one after the other, each in a process of its own."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence

import torch

from deapcache.backbones import arithmetic_key, check_precision, describe
from deapcache.errors import DeapcacheError, UsageError
from deapcache.experiments.speed.child import Measured, Subject, measure
from deapcache.extraction import choose_device
from deapcache.machine import device_name, now, processor_model, versions
from deapcache.processes import process_pool, refuse_unguarded
from deapcache.results.speeds import Speed

REFERENCE = "imagenet"
"""The ViT-B/16 at 224 that others are held against; any of that architecture would do."""

BATCH, BATCHES = 8, 10
"""Section 5.4: "ten batches with eight samples each in inference mode"."""

Told = Callable[[str, int, int], None]
"""Called with what is being measured, how many things are done and how many there are."""

Failed = Callable[[str, str], None]
"""Called with what could not be measured, and why."""

_PACKAGES = ("deapcache", "torch", "timm", "open_clip_torch")


def measure_speeds(
    backbones: Sequence[str],
    *,
    device: str = "auto",
    precision: str = "fp32",
    batch: int = BATCH,
    batches: int = BATCHES,
    told: Told = lambda *_: None,
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
    check_precision(precision)
    if not backbones:
        raise UsageError("nothing to measure: name backbones with --backbone")
    chosen = str(choose_device(device))
    wanted = _subjects(backbones, chosen, precision, batch, batches)
    reference = _reference(wanted, chosen, precision, batch, batches)
    jobs = [reference, *(one for one in wanted if one != reference)]
    median = 0.0
    for done, subject in enumerate(jobs):
        told(subject.name, done, len(jobs))
        try:
            found = _in_child(subject)
        except (DeapcacheError, torch.OutOfMemoryError) as error:
            if subject is reference:
                raise
            failed(subject.name, str(error).splitlines()[0])
            continue
        if subject is reference:
            median = statistics.median(found.seconds)
        if subject in wanted:
            yield _speed(subject, found, reference.name, median)
    told("", len(jobs), len(jobs))


def _subjects(backbones: Sequence[str], device: str, precision: str, batch: int, batches: int) -> list[Subject]:
    names = dict.fromkeys(describe(name).name for name in backbones)
    return [Subject(name=name, device=device, precision=precision, batch=batch, batches=batches) for name in names]


def _reference(wanted: Sequence[Subject], device: str, precision: str, batch: int, batches: int) -> Subject:
    """The first backbone asked for that is a ViT-B/16 at 224, else one that is measured for this alone."""
    same = arithmetic_key(REFERENCE)
    fitting = [one for one in wanted if arithmetic_key(one.name) == same]
    return fitting[0] if fitting else _subjects([REFERENCE], device, precision, batch, batches)[0]


def _in_child(subject: Subject) -> Measured:
    # its own process: peak memory is of it alone, and nothing that was measured before is in its caches
    with process_pool(1, subject.name) as pool:
        return pool.submit(measure, subject).result()


def _speed(subject: Subject, found: Measured, reference: str, median: float) -> Speed:
    on_gpu = torch.device(subject.device).type == "cuda"
    return Speed(
        kind="backbone",
        name=subject.name,
        weights=found.weights,
        input=found.input,
        batch=subject.batch,
        seconds=found.seconds,
        reference_seconds=median,
        reference=reference,
        peak_memory_bytes=found.peak_memory_bytes,
        memory="allocated on the GPU" if on_gpu else "resident",
        parameters=found.parameters,
        device=_comparable(torch.device(subject.device), found.threads, subject.precision),
        precision=subject.precision,
        threads=found.threads,
        date=now(),
        versions={"python": platform.python_version(), **versions(*_PACKAGES)},
    )


def _comparable(device: torch.device, threads: int, precision: str) -> str:
    """All that makes two speeds comparable: ``NVIDIA H100 80GB HBM3``, ``Intel Xeon, 2 threads``; and the precision."""
    if device.type == "cuda":
        name = device_name(device)
    else:
        name = f"{processor_model()}, {threads} thread{'s' if threads > 1 else ''} of {os.cpu_count()}"
    return name if precision == "fp32" else f"{name}, {precision}"
