"""A plan as one JSON document."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from deapcache.experiments.planning.grid import GridPlan
from deapcache.experiments.planning.priced import FeatureWork, PricedPass


def grid_json(plan: GridPlan) -> dict[str, Any]:
    """For ``--json``."""
    rates = plan.speeds.rates
    return {
        "pipelines": [one.pipeline.name for one in plan.plans],
        "home": str(plan.home),
        "free_bytes": plan.plans[0].free_bytes,
        "gpus": plan.gpus,
        "rates": None if rates is None else {"device": rates.device, "measured": rates.measured},
        "caches": [{**asdict(cache), "bytes": cache.bytes} for cache in plan.caches],
        "features": [_feature_json(work) for work in plan.features],
        "passes": [_pass_json(one) for one in plan.probing],
        "storage": plan.storage(),
        "stages": [asdict(stage) for stage in plan.stages],
        "forwards": sum(work.to_do for work in plan.features),
        "bytes": sum(cache.bytes for cache in plan.caches),
        "runs": sum(work.runs - work.elsewhere for work in plan.passes),
        "missing": sum(work.runs - work.there - work.elsewhere for work in plan.passes),
        "steps": sum(work.readout_steps for work in plan.passes),
        "gpu_seconds": plan.gpu_seconds,
        "wall_seconds": plan.wall_seconds,
        "unplanned": list(plan.unplanned),
        "problems": list(plan.problems),
        "left_out": list(plan.left_out),
    }


def _pass_json(one: PricedPass) -> dict[str, Any]:
    work = one.work
    named = ("pipeline", "backbone", "dataset", "tasks", "runs", "there", "elsewhere", "steps", "readout_steps")
    groups = [
        {"task": g.key.task, "readout": g.key.readout, "members": g.key.members, "speed": asdict(speed)}
        for g, speed in zip(work.groups, one.speeds, strict=True)
    ]
    totals = {"bytes_read": work.bytes_read, "gpu_seconds": one.gpu_seconds}
    return {name: getattr(work, name) for name in named} | {"groups": groups} | totals


def _feature_json(work: FeatureWork) -> dict[str, Any]:
    named = ("backbone", "precision", "wanted", "to_do", "bytes", "files", "read", "gpu_seconds")
    return {name: getattr(work, name) for name in named} | {"speed": asdict(work.speed)}
