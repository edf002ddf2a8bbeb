"""How many files a newcomer reads to follow a batch to its score, or a pipeline to its results.

A tracer lists the package's files whose functions are entered, in all threads. The rooms of the two stages and what
combines them decide what happens; those below (cache, locations, readouts, tasks …) are called, and read when needed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import deapcache_toys

import deapcache
from deapcache.datasets import open_dataset
from deapcache.experiments import probe, run_pipeline
from deapcache.extraction import ExtractionSettings, extract
from deapcache.probing import ProbeConfig

PACKAGE = f"{Path(deapcache.__file__).parent}/"
DECIDING = ("cli/", "api/", "experiments/", "extraction/", "probing/", "results/")


@contextmanager
def entered() -> Iterator[set[str]]:
    """The files of the package whose functions are called within the block; loading a module is no call."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_name != "<module>" and code.co_filename.startswith(PACKAGE):
            files.add(code.co_filename.removeprefix(PACKAGE))

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield files
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


def deciding(files: set[str]) -> list[str]:
    """Those of the rooms that decide what happens."""
    return sorted(file for file in files if file.startswith(DECIDING))


def test_a_batch_to_a_saved_score(home) -> None:
    for split in deapcache_toys.COUNTS:
        deapcache_toys.add_features(home, split)
        deapcache_toys.add_targets(home, split, "depth")
    config = ProbeConfig(tasks=["depth"], dataset="toys", readouts=["linear"], iterations=2, batch_size=4)
    list(probe(home, config))  # registries are filled
    with entered() as files:
        (done,) = probe(home, config)
    assert home.exists(f"results/{done.result.run}.json")
    assert len(deciding(files)) <= 10, deciding(files)
    assert {"experiments/probe.py", "probing/batches.py", "probing/train.py", "probing/evaluate.py"} <= files
    assert len(files) <= 42, sorted(files)


def test_a_pipeline_to_its_results(plan, home, coco) -> None:
    with entered() as planning:
        planned = plan()
    with entered() as files:
        assert len(run_pipeline(planned).results) == 5
    assert len(deciding(planning)) <= 10, deciding(planning)
    assert len(deciding(files)) <= 18, deciding(files)
    with entered() as again:
        assert len(run_pipeline(plan()).results) == 5
    assert len(deciding(again)) <= 18, deciding(again)
    planned = plan()
    with entered() as again:
        assert len(run_pipeline(planned).results) == 5
    assert len(again) <= 18, sorted(again)


def test_a_pipeline_of_cached_features_to_its_results(plan, home, coco) -> None:
    backbone = plan().passes[0].backbone
    list(extract([backbone], open_dataset("coco", coco), home, settings=ExtractionSettings(device="cpu")))
    with entered() as files:
        assert len(run_pipeline(plan()).results) == 5
    assert len(deciding(files)) <= 18, deciding(files)
