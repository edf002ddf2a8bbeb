"""GeoNet's normals of NYUv2, two files of MATLAB's version 7.3, and the exact normals of the rendered rooms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from deapcache_matlab import random_normals, random_sample, write_array, write_labelled, write_normals, write_splits

from deapcache.annotations import get_annotation, mirror
from deapcache.datasets import DATASETS, open_dataset
from deapcache.datasets.nyuv2 import NyuNormals
from deapcache.datasets.scenes import SceneNormals, Scenes
from deapcache.errors import DataError, DeapcacheError, MissingDataError

SIZE = (24, 32)
COUNT = 5


def _truth() -> tuple[np.ndarray, np.ndarray]:
    return random_normals(COUNT, SIZE)


@pytest.fixture(params=["", "gt"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "nyuv2"
    write_labelled(folder, [random_sample(seed, SIZE) for seed in range(COUNT)])
    write_splits(folder, (1, 4, 5), (3, 2))
    write_normals(folder / request.param, COUNT, SIZE)
    return folder


def _files(root: Path) -> tuple[Path, Path]:
    *_, normals, masks = NyuNormals.split_parts(root, "train")
    return normals, masks


def test_normals_are_those_of_the_files_on_nyuv2s_images(root: Path) -> None:
    dataset = open_dataset("nyuv2-normals", root.parent)
    assert (dataset.images_name, dataset.annotations) == ("nyuv2", ("normals",))
    assert dataset.image_ids("val") == ("0002", "0003")
    normals, masks = _truth()
    plain = open_dataset("nyuv2", root.parent)
    assert dataset.image_digests("val") == plain.image_digests("val")
    for row, number in enumerate((2, 3)):
        np.testing.assert_array_equal(dataset.read_image("val", row), plain.read_image("val", row))
        found = dataset.read_annotation("val", row, "normals")
        expected = normals[..., number - 1].astype(np.float64)
        expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
        expected[masks[..., number - 1] == 0] = 0
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert found.dtype == np.float32
    assert {split: each.images for split, each in DATASETS.get("nyuv2-normals").status(root.parent).items()} == {
        "train": 795, "val": 654,
    }  # fmt: skip


def test_vectors_without_a_direction_are_unknown(root: Path) -> None:
    normals, masks = _truth()
    normals[0, 0, :, 1], normals[0, 1, :, 1], masks[0, :2, 1] = 0, np.nan, 1
    write_array(_files(root)[0], "norm_gt_l", normals)
    write_array(_files(root)[1], "masks", masks)
    assert (NyuNormals(root).read_annotation("val", 0, "normals")[0, :2] == 0).all()


def test_digests_follow_both_files(root: Path) -> None:
    normals, masks = _truth()
    digests = [NyuNormals(root).annotation_digest("val", "normals")]
    masks[0, 0, 1] ^= 1
    write_array(_files(root)[1], "masks", masks)
    digests.append(NyuNormals(root).annotation_digest("val", "normals"))
    normals[0, 0, 0, 2] += 1
    write_array(_files(root)[0], "norm_gt_l", normals)
    digests.append(NyuNormals(root).annotation_digest("val", "normals"))
    masks[0, 0, 4] ^= 1  # of a training image
    write_array(_files(root)[1], "masks", masks)
    digests.append(NyuNormals(root).annotation_digest("val", "normals"))
    assert len(set(digests)) == 3


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


BROKEN: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "no masks": (lambda n, m: m.unlink(), r"masks\.mat is missing"),
    "cut short": (lambda n, m: _cut(n), r"norm_gt_l\.mat cannot be opened as HDF5"),
    "another array": (lambda n, m: write_array(n, "normals", _truth()[0]), r"has no array 'norm_gt_l'; found normals"),
    "no vectors": (
        lambda n, m: write_array(n, "norm_gt_l", _truth()[0][:, :, 0]),
        r"norm_gt_l has shape \(5, 32, 24\)",
    ),
    "colours": (
        lambda n, m: write_array(n, "norm_gt_l", _truth()[0].astype(np.uint8)),
        r"dtype uint8; expected \(images, 3, width, height\), float",
    ),
    "masks of another size": (
        lambda n, m: write_array(m, "masks", np.ones((4, 6, COUNT), bool)),
        r"masks\.mat has maps of \(4, 6\) pixels, .*norm_gt_l\.mat of \(24, 32\); use the two files of one download",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_cannot_be_used_are_refused(root: Path, case: str) -> None:
    damage, message = BROKEN[case]
    damage(*_files(root))
    with pytest.raises((DataError, MissingDataError), match=message) as raised:
        NyuNormals(root).read_annotation("val", 0, "normals")
    assert "\n" not in str(raised.value)


def test_without_the_normals_it_says_where_they_come_from(root: Path) -> None:
    _files(root)[0].unlink()
    with pytest.raises(
        DeapcacheError, match=r"nyuv2-normals is not under .* GeoNet's archive, https://github\.com/xjqi"
    ):
        open_dataset("nyuv2-normals", root.parent)


def test_rooms_have_the_normals_of_their_depth() -> None:
    """Where depth is smooth: the cross product of the steps from a pixel to its neighbours in space."""
    dataset = SceneNormals()
    found = dataset.read_annotation("val", 2, "normals")
    scene, depth = dataset.scene("val", 2), Scenes().read_annotation("val", 2, "depth").astype(np.float64)
    height, width = depth.shape
    rows, columns = np.indices(depth.shape) + 0.5
    scale = 1 / (scene.camera.focal * width)
    points = depth[..., None] * np.stack(
        [(columns - width / 2) * scale, (rows - height / 2) * scale, np.ones_like(rows)], axis=-1
    )
    down, right = np.gradient(points, axis=(0, 1))
    across = np.cross(down, right)
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    cosine = (across * found).sum(-1)
    assert np.median(cosine) > 0.9999
    assert (cosine > 0.99).mean() > 0.9  # all but outlines
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)
    assert dataset.image_digests("val") == Scenes().image_digests("val")
    assert dataset.annotation_digest("val", "normals") != Scenes().annotation_digest("val", "depth")


def test_mirrored_normals_are_those_of_the_mirrored_room() -> None:
    """A mirrored pinhole sees right and left exchanged, and so are the normals' first components."""
    found = SceneNormals().read_annotation("val", 0, "normals")[None]
    turned = mirror("normals", found)
    np.testing.assert_array_equal(turned[..., 1:], found[:, :, ::-1, 1:])
    np.testing.assert_array_equal(turned[..., 0], -found[:, :, ::-1, 0])
    painted = get_annotation("normals").paint(np.array([[[0, 0, -1.0], [0, 0, 0]]], np.float16))
    np.testing.assert_array_equal(painted, [[[128, 128, 0], [255, 255, 255]]])
