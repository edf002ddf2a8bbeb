"""The demo: embedded scenes, a really pretrained backbone beside its untrained control, three tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deapcache.datasets import open_dataset
from deapcache.experiments.probe import Probed, ProbeRequest, Report, probe
from deapcache.extraction import ExtractionReport, Progress, extract
from deapcache.locations import Location
from deapcache.probing import ProbeOptions

BACKBONES = ("efficientnet-lite0-s16", "efficientnet-lite0-s16@untrained")
TASKS = ("segmentation", "boundaries", "depth")
DATASET = "scenes"


def run_demo(
    home: Location, *, iterations: int, progress: Progress, report: Report, command: Sequence[str] = ()
) -> tuple[list[ExtractionReport], list[Probed]]:
    """Extract both backbones over ``scenes`` (what is cached is not made again), then probe the three tasks."""
    dataset = open_dataset(DATASET, Path())
    extracted = list(extract(BACKBONES, dataset, home, progress=progress))
    request = ProbeRequest(
        tasks=TASKS,
        dataset=DATASET,
        backbones=BACKBONES,
        options=ProbeOptions(iterations=iterations, batch_size=8),
    )
    return extracted, list(probe(home, request, report=report, command=command))
