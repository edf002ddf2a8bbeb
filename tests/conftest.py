"""Fixtures that all rooms share."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from deapcache_bucket import s3, s3_server
from deapcache_export import export_scenes
from deapcache_testing import require
from PIL import Image

from deapcache.locations import LocalLocation

__all__ = ["s3", "s3_server"]  # fixtures of their own module

COCO_MINI = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco-mini"


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """A true subset of COCO 2017: 69 training and 35 validation photographs with their annotations."""
    require(COCO_MINI.is_dir(), "the COCO subset beside the repository (shared/data/coco-mini)")
    return COCO_MINI


@pytest.fixture
def home(tmp_path: Path) -> LocalLocation:
    """An empty cache home."""
    (tmp_path / "home").mkdir()
    return LocalLocation(tmp_path / "home")


@pytest.fixture
def settled_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times of all files count as old enough to be trusted, whenever they were written."""
    monkeypatch.setattr("deapcache.datasets.digests.SETTLED_NS", 0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Work as small as a test's waits more for other threads than it gains from them."""
    import torch  # most rooms do without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


MakeCoco = Callable[..., Path]


@pytest.fixture(scope="session")
def write_coco() -> MakeCoco:
    """A function that writes a small dataset in COCO's layout into a folder: smooth random photographs, a square each.

    The same numbers of images are the same images, wherever they are.
    """

    def write(root: Path, train: int = 12, val: int = 4, *, size: tuple[int, int] = (96, 128)) -> Path:
        for split, count, first in (("train", train, 0), ("val", val, 10_000)):
            _write_coco_split(root, split, [first + i for i in range(count)], size)
        return root

    return write


@pytest.fixture
def make_coco(tmp_path: Path, write_coco: MakeCoco) -> MakeCoco:
    """The same, into a folder of the test's own."""

    def make(train: int = 12, val: int = 4, *, name: str = "data", size: tuple[int, int] = (96, 128)) -> Path:
        return write_coco(tmp_path / name, train, val, size=size)

    return make


def _write_coco_split(root: Path, split: str, numbers: list[int], size: tuple[int, int]) -> None:
    folder = root / f"{split}2017"
    folder.mkdir(parents=True)
    height, width = size
    images, annotations = [], []
    for number in numbers:
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        name = f"{number:012d}.jpg"
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / name, quality=92)
        images.append({"id": number, "file_name": name, "height": height, "width": width, "license": 7})
        x, y, side = 8 + number % 40, 8 + number % 20, 40
        annotations.append(
            {
                "id": number + 1,
                "image_id": number,
                "category_id": 1 + number % 2,
                "iscrowd": 0,
                "area": side * side,
                "bbox": [x, y, side, side],
                "segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]],
            }
        )
    (root / "annotations").mkdir(exist_ok=True)
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
    }
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(document))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives the first three scenes of each split, exported once in the layout of that name."""

    @functools.cache
    def export(layout: str) -> Path:
        folder = tmp_path_factory.mktemp("exports") / layout
        export_scenes(layout, folder, limit=3)
        return folder

    return export
