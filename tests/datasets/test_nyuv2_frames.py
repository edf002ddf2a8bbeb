"""NYUv2's 24,231 training frames by the list of BTS, in its form and folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deapcache.datasets import DATASETS, open_dataset
from deapcache.datasets.nyuv2_pairs import NyuFrames
from deapcache.errors import DataError, MissingDataError

LIST = "nyudepthv2_train_files_with_gt.txt"
FRAMES = (("kitchen_0028b", "00045"), ("living_room_0019", "00111"), ("kitchen_0028b", "00002"))
TESTED = (("bathroom", "00045"), ("office", "00008"))


def _pair(folder: Path, frame: str, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(folder / f"rgb_{frame}.jpg")
    depth = rng.integers(0, 10_001, (9, 12)).astype(np.uint16)
    depth[0, 0] = 10_000
    Image.fromarray(depth).save(folder / f"sync_depth_{frame}.png")


def _line(scene: str, frame: str) -> str:
    return f"/{scene}/rgb_{frame}.jpg /{scene}/sync_depth_{frame}.png 518.8579\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "nyu_depth_v2"
    for seed, (scene, frame) in enumerate((*FRAMES, ("kitchen_0028b", "00099"))):  # the last one is not listed
        _pair(folder / "sync" / scene, frame, seed)
    for seed, (scene, frame) in enumerate(TESTED):
        _pair(folder / "official_splits" / "test" / scene, frame, 10 + seed)
    (folder / LIST).write_text("".join(_line(*one) for one in FRAMES) + "\n")
    return folder


def test_what_the_list_names_is_read(root: Path) -> None:
    dataset = open_dataset("nyuv2-24k", root.parent)
    assert sorted(dataset.image_ids("train")) == sorted(f"{scene}/{frame}" for scene, frame in FRAMES)
    assert dataset.image_ids("val") == ("bathroom/00045", "office/00008")
    for row, id_ in enumerate(dataset.image_ids("train")):
        scene, frame = id_.split("/")
        with Image.open(root / "sync" / scene / f"sync_depth_{frame}.png") as stored:
            expected = np.array(stored) / 1000
        expected[expected == 10] = 0
        np.testing.assert_allclose(dataset.read_annotation("train", row, "depth"), expected, atol=1e-6)
        assert dataset.read_image("train", row).shape == (9, 12, 3)
    status = DATASETS.get("nyuv2-24k").status(root.parent)
    assert {split: (each.images, each.missing) for split, each in status.items()} == {"train": (3, ()), "val": (2, ())}
    assert NyuFrames.official == {"train": 24_231, "val": 654}


def test_a_list_without_slashes_or_focal_lengths_will_do(root: Path) -> None:
    before = NyuFrames(root).image_ids("train")
    (root / LIST).write_text(
        (root / LIST).read_text().replace(" /", " ").replace("\n/", "\n")[1:].replace(" 518.8579", "")
    )
    assert NyuFrames(root).image_ids("train") == before


def _listed(text: str) -> Callable[[Path], object]:
    return lambda root: (root / LIST).write_text(text)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no list": (lambda r: (r / LIST).unlink(), rf"no train split .*{LIST} is missing"),
    "no frames": (lambda r: (r / "sync").rename(r / "gone"), r"no train split .*sync is missing"),
    "no depth": (lambda r: (r / "sync/living_room_0019/sync_depth_00111.png").unlink(), r"lacks 1 pictures or depth"),
    "no picture": (lambda r: (r / "sync/living_room_0019/rgb_00111.jpg").unlink(), r"rgb_00111\.jpg; put them there"),
    "another frame": (
        _listed("/a/rgb_00001.jpg /a/sync_depth_00002.png 518.8579\n"),
        r"files_with_gt\.txt, line 1 reads '/a/rgb_00001.*expected SCENE/rgb_FRAME\.jpg, then SCENE/sync_depth_FRAME",
    ),
    "upwards": (_listed("../../rgb_00001.jpg ../../sync_depth_00001.png 518.8579\n"), r"line 1 reads '\.\./\.\./rgb"),
    "twice": (_listed(2 * _line(*FRAMES[0])), r"has two pictures of the id kitchen_0028b/00045, or names it twice"),
    "empty": (_listed("\n"), r"files_with_gt\.txt has no picture"),
    "no text": (lambda r: (r / LIST).write_bytes(b"\xff\xfe"), r"is no text .*; take it from the files of BTS"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_used_is_refused(root: Path, case: str) -> None:
    damage, message = BROKEN[case]
    damage(root)
    with pytest.raises((DataError, MissingDataError), match=message) as raised:
        NyuFrames(root).image_ids("train")
    assert "\n" not in str(raised.value)


def test_one_split_is_enough_to_use_it(root: Path) -> None:
    (root / LIST).unlink()
    dataset = open_dataset("nyuv2-24k", root.parent)
    assert len(dataset.image_ids("val")) == 2
    status = DATASETS.get("nyuv2-24k").status(root.parent)
    assert status["val"].is_usable
    assert status["train"].missing == (str(root / LIST),)
