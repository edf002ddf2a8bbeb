"""What is told of runs beside their scores: time, memory, device, the caches that were read."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch

from deapcache.cache import HFLIP, CacheEntry
from deapcache.machine import device_name
from deapcache.probing.batches import BatchStream
from deapcache.probing.cost import measure_cost
from deapcache.probing.learner import Learner
from deapcache.probing.options import ProbeOptions, Residency
from deapcache.probing.sources import Sources
from deapcache.probing.team import Team


def shared_facts(
    learners: Sequence[Learner],
    options: ProbeOptions,
    residency: Residency,
    trained: float,
    scored: float,
    before: tuple[int, int],
) -> dict[str, Any]:
    """What is the same of all runs of a pass; ``before`` is :func:`backbone_counts` when it began."""
    forwards, builds = (now - then for now, then in zip(backbone_counts(), before, strict=True))
    images = max(learner.iteration for learner in learners) * options.batch_size
    return {
        "seconds": {"train": trained, "score": scored},
        "readouts_sharing": len(learners),
        "images_per_second": images / max(trained, 1e-9),
        "device": _named(torch.device(options.device)),
        "residency": residency,
        "backbone_forwards": forwards,
        "backbone_builds": builds,
    }


def costs_of(teams: Sequence[Team], stream: BatchStream, rows: Any) -> dict[int, Mapping[str, float | None]]:
    """Learner (its id) → time and memory of its readouts on one batch; measured once for those of one shape.

    Empty where it cannot be measured, for want of memory as a rule: what was trained is worth more than its cost.
    """
    batch = next(iter(stream.batches([rows])))
    features = batch.features.float()
    costs: dict[int, Mapping[str, float | None]] = {}
    for team in (one for one in teams if one.learners):
        first = team.learners[0]
        try:
            cost = measure_cost(first.heads, features, first.posed.output_size, batch.guidance)
        except RuntimeError as error:
            warnings.warn(f"the cost of readout {first.readout} could not be measured: {error}", stacklevel=2)
            cost = {}
        costs |= {id(learner): cost for learner in team.learners}
    return costs


def caches_read(sources: Sources, annotations: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """What a result keeps of the caches that a task of these annotations reads: ``train`` … → path, digest, recipe."""
    splits = {"train": sources.train, "val": sources.val}
    entries = {name: split.features for name, split in splits.items()}
    if sources.train.mirrored is not None:
        entries[f"train {HFLIP}"] = sources.train.mirrored
    for annotation, (name, split) in product(annotations, splits.items()):
        entries[f"{name} {annotation} targets"] = split.targets[annotation]
    return {name: _cache_facts(entry) for name, entry in entries.items()}


def _cache_facts(entry: CacheEntry) -> dict[str, Any]:
    return {"path": entry.path, "digest": entry.digest, "recipe": dict(entry.recipe)}


def backbone_counts() -> tuple[int, int]:
    """Images forwarded and backbones built in this process; (0, 0) where nothing loaded the backbones' room."""
    room = sys.modules.get("deapcache.backbones")
    return (0, 0) if room is None else (room.forward_count(), room.build_count())


def _named(device: torch.device) -> str:
    return f"{device} ({device_name(device)})" if device.type == "cuda" else str(device)
