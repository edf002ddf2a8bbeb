"""The protocol of a probe: everything but features and seed that decides its score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deapcache.plugins import Registry
from deapcache.probing.options import ProbeOptions
from deapcache.probing.posed import PosedTask
from deapcache.probing.sources import Sources, SplitSource
from deapcache.readouts import READOUTS
from deapcache.recipe import Protocol
from deapcache.tasks import TASKS

_HOW_TARGETS_ARE_MADE = ("fit", "options")


def protocol_of(
    posed: PosedTask,
    readout: str,
    readout_options: Mapping[str, Any],
    lr: float,
    *,
    dataset: str,
    sources: Sources,
    options: ProbeOptions,
) -> Protocol:
    """The protocol of one readout of a task; the same for all its seeds and for all backbones.

    Where a plugin registered the task or the readout, its source is part of the options: it may be changed.
    """
    task = posed.task
    targets = {name: _target_options(sources, name) for name in task.annotations}
    return Protocol(
        task=task.name,
        task_options={**task.options, "targets": targets, **_plugin(TASKS, task.name)},
        dataset=dataset,
        output_size=posed.output_size,
        readout=readout,
        readout_options={**readout_options, **_plugin(READOUTS, readout.partition(":")[0])},
        optimiser=options.optimiser(lr),
        iterations=posed.iterations,
        batch_size=options.batch_size,
        order_seed=options.order_seed,
        train_limit=_limit(options.train_limit, sources.train),
        val_limit=_limit(options.val_limit, sources.val),
        views=options.views,
    )


def _plugin(registry: Registry[Any], name: str) -> dict[str, str]:
    source = registry.source(name)
    return {"plugin": source} if source else {}


def _target_options(sources: Sources, annotation: str) -> Mapping[str, Any]:
    recipe = sources.target_recipe(annotation)
    return {name: recipe[name] for name in _HOW_TARGETS_ARE_MADE}


def _limit(asked: int | None, source: SplitSource) -> int | None:
    # a limit that leaves nothing out is none: both are the same probe
    return asked if asked is not None and asked < len(source.arrays.features) else None
