"""Plans of small pipelines over a small dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deapcache_pipelines import SMALL, MakePlan

from deapcache.experiments import PipelinePlan, load_pipeline, plan_pipeline
from deapcache.locations import LocalLocation


@pytest.fixture(autouse=True)
def in_one_thread(one_thread: None) -> None:
    """All of this room."""


@pytest.fixture(autouse=True, scope="module")
def no_pictures() -> Iterator[None]:
    """Drawing takes longer than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deapcache.results.draw.save_picture", lambda _, result, **__: f"{result.run}.png")
        yield


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """A function that writes a pipeline file, and gives its path."""

    def written(text: str) -> str:
        file = tmp_path / "small.yaml"
        file.write_text(text)
        return str(file)

    return written


@pytest.fixture
def coco(make_coco) -> Path:
    """Eight training and four validation images."""
    return make_coco(train=8, val=4)


@pytest.fixture
def plan(write, coco: Path, home: LocalLocation) -> MakePlan:
    """A function that plans a pipeline text with settings for ``home``."""

    def planned(text: str = SMALL, *settings: str, data_root: Path = coco) -> PipelinePlan:
        return plan_pipeline(load_pipeline(write(text), settings), home, data_root, device="cpu")

    return planned
