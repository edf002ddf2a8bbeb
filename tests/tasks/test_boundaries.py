"""Boundary and foreground targets against scikit-image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from skimage.morphology import dilation, footprint_rectangle
from skimage.segmentation import find_boundaries
from torch import Tensor

from deapcache.tasks import get_task


def boundaries(instances: Tensor) -> Tensor:
    return get_task("boundaries").target({"instances": instances})


def reference(instances: np.ndarray) -> np.ndarray:
    crowd = instances == -1
    thick = find_boundaries(np.where(crowd, 0, instances), mode="thick")
    dilated = dilation(thick, footprint_rectangle((3, 3))).astype(np.uint8)
    return np.where(crowd, 255, dilated)


def blobs(seed: int, size: tuple[int, int] = (61, 47)) -> np.ndarray:
    """Overlapping ellipses, some of them crowds, as instance maps look."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    instances = np.zeros(size, np.int32)
    for number in range(1, 9):
        cy, cx, ry, rx = rng.uniform(0, size[0]), rng.uniform(0, size[1]), *rng.uniform(1, 15, 2)
        instances[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = -1 if number % 4 == 0 else number
    return instances


@pytest.mark.parametrize("seed", range(5))
def test_boundaries_are_those_of_scikit_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.integers(-1, 3, (61, 47)).astype(np.int32)
    sparse = np.where(rng.random((61, 47)) < 0.02, rng.integers(-1, 9, (61, 47)), 0).astype(np.int32)
    maps = np.stack([noise, sparse, blobs(seed), np.zeros((61, 47), np.int32)])
    target = boundaries(torch.from_numpy(maps))
    assert target.dtype == torch.uint8
    np.testing.assert_array_equal(target.numpy(), np.stack([reference(m) for m in maps]))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_boundaries_of_slim_maps(size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).integers(-1, 3, (20, *size)).astype(np.int32)
    target = boundaries(torch.from_numpy(maps))
    np.testing.assert_array_equal(target.numpy(), np.stack([reference(m) for m in maps]))


def test_boundaries_of_real_photographs(coco_mini: Path) -> None:
    content = json.loads((coco_mini / "annotations" / "instances_val2017.json").read_text())
    maps = []
    for image in content["images"][:10]:
        instances = np.zeros((image["height"], image["width"]), np.int32)
        for number, one in enumerate((a for a in content["annotations"] if a["image_id"] == image["id"]), 1):
            rle = one["segmentation"]
            parts = coco_mask.frPyObjects(rle, image["height"], image["width"])
            found = coco_mask.decode(coco_mask.merge(parts) if isinstance(parts, list) else parts)
            instances[found > 0] = -1 if one["iscrowd"] else number
        rows, columns = (np.arange(224) * side // 224 for side in instances.shape)
        maps.append(instances[np.ix_(rows, columns)])
    target = boundaries(torch.from_numpy(np.stack(maps)))
    np.testing.assert_array_equal(target.numpy(), np.stack([reference(m) for m in maps]))
    assert 0.02 < (target == 1).float().mean() < 0.2


def test_a_crowd_is_void_and_its_outline_is_no_border() -> None:
    maps = torch.zeros(1, 12, 24, dtype=torch.int32)
    maps[0, 3:9, 8:16] = -1
    target = boundaries(maps)
    assert (target[maps == -1] == 255).all()
    assert (target[maps != -1] == 0).all()
    maps[0, 3:9, 16:22] = 1  # an instance beside it has its whole outline
    target = boundaries(maps)
    assert (target[0, 3:9, 16] == 1).all()
    assert (target[maps == -1] == 255).all()


def test_foreground_is_any_instance_or_crowd() -> None:
    maps = {"instances": torch.tensor([[[0, 1, 7, -1]]], dtype=torch.int32)}
    target = get_task("foreground").target(maps)
    assert target.dtype == torch.uint8
    assert target.tolist() == [[[0, 1, 1, 1]]]
