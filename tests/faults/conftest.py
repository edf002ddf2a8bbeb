"""What the fault tests share: one undisturbed extraction to compare with, and the table at the end of the long form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deapcache_caches import feature_cache, fill
from deapcache_faults import LONG, TALLY, Extractors, Tally, cache_bytes
from PIL import Image

from deapcache.cache import FeatureCache
from deapcache.locations import LocalLocation

IMAGES = 130 if LONG else 40
"""44 shards of three images, or 40 shards of one."""
FEW = 10


@dataclass(frozen=True)
class Undisturbed:
    """An extraction that nothing went wrong with."""

    root: Path
    """Of the dataset."""
    home: LocalLocation
    kept: dict[str, bytes]
    """Every key of its caches."""
    seconds: float
    """From start to end of the process."""


@pytest.fixture
def tally() -> Tally:
    """Counts faults injected and survived."""
    return TALLY


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """A cache of which two shards are there, for what is done to it."""
    made = feature_cache(LocalLocation(tmp_path / "home"))
    fill(made, range(2))
    return made


@pytest.fixture(scope="session")
def extractors() -> Iterator[Extractors]:
    """Starts extractions as processes of their own."""
    made = Extractors()
    yield made
    made.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, extractors: Extractors) -> Undisturbed:
    """A small dataset in COCO's layout, and its caches as one process makes them that nobody disturbs."""
    return _extracted(tmp_path_factory.mktemp("undisturbed"), extractors, IMAGES)


@pytest.fixture(scope="session")
def undisturbed_few(tmp_path_factory: pytest.TempPathFactory, extractors: Extractors) -> Undisturbed:
    """The same, in the short form of few images: an object store is asked some sixty times for each."""
    return _extracted(tmp_path_factory.mktemp("few"), extractors, IMAGES if LONG else FEW)


def _extracted(folder: Path, extractors: Extractors, images: int) -> Undisturbed:
    root, home = folder / "data", LocalLocation(folder / "home")
    _write_dataset(root, images)
    seconds = extractors.run(root, home, folder / "log")
    return Undisturbed(root, home, cache_bytes(home), seconds)


def _write_dataset(root: Path, count: int) -> None:
    (root / "train2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, count + 1):
        name = f"{number:012d}.png"
        pixels = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        pixels.resize((64, 48), Image.Resampling.BICUBIC).save(root / "train2017" / name)
        images.append({"id": number, "file_name": name, "height": 48, "width": 64})
        corners = [4.0, 4.0, 30.0, 4.0, 30.0, 30.0, 4.0, 30.0]
        facts = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 676.0}
        annotations.append({**facts, "bbox": [4.0, 4.0, 26.0, 26.0], "segmentation": [corners]})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "one"}]}
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(document))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of several hands what it has counted to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = TALLY.rows


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node: Any) -> None:
    """Adds up what the processes have counted."""
    TALLY.add(getattr(node, "workeroutput", {}).get("faults", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of docs/reliability.md, at the end of the long form."""
    if not LONG or not TALLY.rows:
        return
    terminalreporter.section("faults injected, survived, what the user sees")
    for kind, (injected, survived, seen) in sorted(TALLY.rows.items()):
        terminalreporter.write_line(f"| {kind} | {injected} | {survived} | {seen} |")
    totals = [sum(int(str(row[place])) for row in TALLY.rows.values()) for place in (0, 1)]
    terminalreporter.write_line(f"| all | {totals[0]} | {totals[1]} | |")
