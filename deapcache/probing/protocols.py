"""The protocol of a probe: everything but features and seed that decides its score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deapcache.probing.learner import Learner
from deapcache.probing.options import ProbeOptions
from deapcache.probing.sources import Sources, SplitSource
from deapcache.recipe import Protocol

_HOW_TARGETS_ARE_MADE = ("annotation", "fit", "options")


def protocol_of(learner: Learner, dataset: str, sources: Sources, options: ProbeOptions) -> Protocol:
    """The protocol that ``learner`` was trained under; the same for all its seeds and for all backbones."""
    probed = learner.probed
    return Protocol(
        task=probed.task.name,
        task_options={**probed.task.options, "targets": _target_options(sources, probed.task.annotation)},
        dataset=dataset,
        output_size=probed.output_size,
        readout=learner.readout,
        readout_options=dict(learner.model.options),
        optimiser=options.optimiser(),
        iterations=probed.iterations,
        batch_size=options.batch_size,
        order_seed=options.order_seed,
        train_limit=_limit(options.train_limit, sources.train),
        val_limit=_limit(options.val_limit, sources.val),
    )


def _target_options(sources: Sources, annotation: str) -> Mapping[str, Any]:
    recipe = sources.target_recipe(annotation)
    return {name: recipe[name] for name in _HOW_TARGETS_ARE_MADE}


def _limit(asked: int | None, source: SplitSource) -> int | None:
    # a limit that leaves nothing out is none: both are the same probe
    return asked if asked is not None and asked < len(source.arrays.features) else None
