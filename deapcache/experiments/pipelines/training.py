"""Training the missing runs of a pass: here, or as the task of a cluster's worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from deapcache.errors import DeapcacheError, LocationError
from deapcache.experiments.pipelines.runs import PassRuns
from deapcache.experiments.probe import Report, SavedRun, probe
from deapcache.extraction import Cluster, forget_models, worker_device
from deapcache.locations import Location
from deapcache.probing import ProbeProgress

COLLECTED = (DeapcacheError, torch.OutOfMemoryError)
"""Errors that end one part of a pipeline and not the others."""

_TOPIC = "deapcache-probes"

_EVENTS_EVERY = 0.5
"""Seconds between two messages of one worker's progress."""


@dataclass(kw_only=True)
class Trained:
    """What training a pass came to."""

    probed: list[SavedRun] = field(default_factory=list)
    error: str = ""
    """What ended it before its last run; empty as a rule."""


def train_pass(runs: PassRuns, home: Location, *, report: Report, command: Sequence[str]) -> Trained:
    """Train the missing runs of a pass and save them; raises :class:`LocationError`, which concerns all passes."""
    config = runs.unit.config(runs.fields, runs.images_name)
    trained = Trained()
    try:
        for one in probe(home, config, report=report, command=command, skip=runs.is_settled):
            trained.probed.append(one)  # one by one, so that an error leaves those before it
    except LocationError:
        raise
    except COLLECTED as error:
        trained.error = line(error)
    return trained


def train_passes(
    passes: Sequence[PassRuns], home: Location, cluster: Cluster, *, report: Report, command: Sequence[str]
) -> Iterator[tuple[int, Trained]]:
    """Train passes side by side, one a worker; the place of each with what came of it, as they end.

    Raises :class:`LocationError`, and :class:`deapcache.errors.ClusterError` where the cluster is lost.
    """
    cluster.client.subscribe_topic(_TOPIC, _reporting(report))
    try:
        calls = [(_train_there, place, runs, home, tuple(command), cluster.device) for place, runs in enumerate(passes)]
        yield from cluster.run(calls, name="probes")
    finally:
        cluster.client.unsubscribe_topic(_TOPIC)


def line(error: Exception) -> str:
    """An error in one line."""
    return str(error) if isinstance(error, DeapcacheError) else str(error).splitlines()[0]


def _train_there(
    place: int, runs: PassRuns, home: Location, command: Sequence[str], device: str
) -> tuple[int, Trained]:
    """As a task: on the worker's own device."""
    forget_models()
    options = replace(runs.unit.options, device=str(worker_device(device)))
    here = replace(runs, unit=replace(runs.unit, options=options))
    return place, train_pass(here, home, report=_messages(), command=command)


def _messages() -> Report:
    """Progress as messages to whoever listens at the scheduler."""
    from distributed import get_worker

    worker, last = get_worker(), 0.0

    def send(name: str, event: ProbeProgress) -> None:
        nonlocal last
        if event.done == event.total or time.monotonic() - last > _EVENTS_EVERY:
            last = time.monotonic()
            worker.log_event(_TOPIC, {"name": name, "event": asdict(event)})

    return send


def _reporting(report: Report) -> Callable[[tuple[float, Any]], None]:
    def receive(message: tuple[float, Any]) -> None:
        report(message[1]["name"], ProbeProgress(**message[1]["event"]))

    return receive
