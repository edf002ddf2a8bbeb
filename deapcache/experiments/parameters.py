"""How many learnable parameters a readout has on each backbone of the paper and for each of its tasks."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from deapcache.backbones import describe
from deapcache.readouts import learnable_parameters
from deapcache.results import paper_backbones
from deapcache.tasks import get_task

PAPER_TASKS = ("discrimination", "boundaries", "detection", "voc", "coco-stuff", "depth")
"""In the order of Tables 3 and 4."""


def count_parameters(readout: str) -> Mapping[str, Mapping[str, int]]:
    """Backbone → task → learnable parameters, as P_learn of Tables 3 and 4, of the readout of that name.

    Counted from built modules, without weights or data. A task with several heads has as many readouts.

    Raises :class:`deapcache.errors.UsageError` for a readout or a size that there is not.
    """
    count_one = functools.cache(learnable_parameters)

    def count(backbone: str, name: str) -> int:
        entry, task = describe(backbone), get_task(name)
        sizes = {"feature_dim": entry.dim, "grid": entry.grid, "cnn_width": task.cnn_width(())}
        return sum(count_one(readout, out_channels=channels, **sizes) for channels in task.heads(()))

    return {backbone: {task: count(backbone, task) for task in PAPER_TASKS} for backbone in paper_backbones()}
