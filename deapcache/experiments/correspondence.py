"""Semantic correspondence: which cell of another image looks most like a keypoint's, without any training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deapcache.backbones import extract_options
from deapcache.cache import CacheEntry, FeatureCache, find_one
from deapcache.datasets import images_owner, open_dataset
from deapcache.datasets.spair import KeypointPair, Spair71k, pairs_digest
from deapcache.errors import DataError, IncompleteCacheError, UsageError
from deapcache.experiments.probe import choose_backbones
from deapcache.locations import Location
from deapcache.machine import device_name
from deapcache.probing import feature_fields, model_of
from deapcache.recipe import NOT_TRAINED, Protocol
from deapcache.regions import SQUASH
from deapcache.results import Result, save_run
from deapcache.results.intervals import bootstrap_difference, bootstrap_interval, interval_key
from deapcache.results.record import plain_json
from deapcache.tasks import each_row

TASK, SPLIT = "correspondence", "val"

METRICS = {
    "pck": {"label": "PCK@0.1", "unit": "", "higher_is_better": True},
    "pck_points": {"label": "PCK@0.1, points", "unit": "", "higher_is_better": True},
    "pck_05": {"label": "PCK@0.05", "unit": "", "higher_is_better": True},
    "pck_15": {"label": "PCK@0.15", "unit": "", "higher_is_better": True},
}
SHARES = {"10": 0.1, "05": 0.05, "15": 0.15}
"""Of the longer side of the object's box in the target: how far off a point may be to be right."""


def correspondence(
    home: Location,
    *,
    dataset: str,
    data_root: Any,
    backbones: Sequence[str],
    where: Mapping[str, Any],
    limit: int | None,
    results_home: Location,
    device: str,
    command: Sequence[str],
    progress: Callable[[str, int, int], None],
) -> Iterator[Result]:
    """Score the cached features of each backbone on the pairs of a dataset, save and yield each result.

    A keypoint's feature is read between the four cells around it; the cell of the target with the highest cosine to it
    is the answer, at its centre. Points are right within a share of the longer side of the object's box: PCK as
    SPair-71k defines it (Min et al. 2019), averaged over pairs, and over points. Beside it stands the answer that looks
    at no image: the same place in the target. ``progress`` is called with the backbone, and how many of how many pairs
    are scored.

    Raises :class:`UsageError` for a dataset without pairs and for cropped images, :class:`CacheMissError`,
    :class:`IncompleteCacheError` and :class:`DataError` where a cache is not there, lacks images or has others, and
    what reading pairs raises.
    """
    opened = open_dataset(dataset, data_root)
    if not isinstance(opened, Spair71k):
        raise UsageError(f"dataset {dataset!r} has no pairs of images: correspondence is scored on spair-71k")
    pairs = opened.pairs(SPLIT, limit)
    results_home.require_writable()
    for backbone in choose_backbones(home, dataset, backbones, where):
        begin = time.perf_counter()
        entry, cache = _open_features(home, dataset, backbone, where, pairs)
        found = match_pairs(cache, pairs, device=device, progress=lambda *n, name=backbone: progress(name, *n))
        blind = [pair.points[0] * _width_height(pair, 1) / _width_height(pair, 0) for pair in pairs]
        statistics, prior = _statistics(pairs, found), _statistics(pairs, blind)
        protocol = _protocol(dataset, opened.base_size, pairs, limit)
        record = {"path": entry.path, "digest": entry.digest, "recipe": dict(entry.recipe)}
        facts = {
            "protocol": protocol.to_json(),
            "protocol_digest": protocol.digest,
            "seed": 0,
            "backbone": entry.name,
            "caches": {"train": record, "val": record},  # a result names both; nothing is trained
            "classes": [],
            "readout": {
                "name": protocol.readout, "options": {}, "feature_dim": cache.dim, "grid": list(cache.grid),
                "cnn_width": None, "heads": [1], "output_size": list(protocol.output_size),
            },
            "scores": pck(statistics),
            "prior": pck(prior),
            "metrics": METRICS,
            "main_metric": "pck",
            "parameters": 0,
            "sigma": None,
            "train_images": 0,
            "val_images": len(pairs),
            "loss_curve": [],
            "seconds": {"train": 0.0, "score": time.perf_counter() - begin},
            "readouts_sharing": 1,
            "images_per_second": 0.0,
            "device": device_name(torch.device(device)),
            "residency": "memory",
            "backbone_forwards": 0,
            "backbone_builds": 0,
        }  # fmt: skip
        arrays = {"statistics": statistics, "prior_statistics": prior, "weights": {}}
        result = save_run(results_home, facts, **arrays, image_ids=[pair.name for pair in pairs], command=command)
        # over pairs, which tables show as they show intervals over images
        kept = {
            "runs": [result.run],
            "intervals": bootstrap_interval([statistics], each_row(pck), from_sums=True),
            "differences": bootstrap_difference([statistics], [prior], each_row(pck), from_sums=True),
        }
        results_home.publish(interval_key([result]), json.dumps(plain_json(kept)).encode(), replace=True)
        yield result


def _open_features(
    home: Location, dataset: str, backbone: str, where: Mapping[str, Any], pairs: Sequence[KeypointPair]
) -> tuple[CacheEntry, FeatureCache]:
    """The one cache of a backbone with these recipe fields, which has all images of the pairs, whole ones."""
    options = extract_options(backbone, model_of(home, backbone))
    make = f"deapcache extract {options} --dataset {dataset} --split {SPLIT}"
    entry = find_one(
        home,
        "features",
        dataset=images_owner(dataset),
        split=SPLIT,
        name=backbone,
        fields=feature_fields(where),
        next_step=f"`{make}` makes it",
    )
    if entry.recipe["base_fit"] != SQUASH:
        raise UsageError(f"{entry.path} is of cropped images, which lack keypoints: extract with --fit {SQUASH}")
    cache = entry.open()
    assert isinstance(cache, FeatureCache)  # what open() gives for this kind
    rows = {id_: row for row, id_ in enumerate(cache.image_ids)}
    wanted = {id_ for pair in pairs for id_ in pair.images}
    if unknown := sorted(wanted - rows.keys()):
        raise DataError(f"{entry.path} does not know image {unknown[0]} of the pairs: `{make}` makes another")
    if not cache.is_complete(sorted(rows[id_] for id_ in wanted)):
        raise IncompleteCacheError(f"{entry.path} lacks some of the pairs' {len(wanted)} images: `{make}` adds them")
    return entry, cache


def match_pairs(
    cache: FeatureCache, pairs: Sequence[KeypointPair], *, device: str, progress: Callable[[int, int], None]
) -> list[np.ndarray]:
    """The place (keypoints, 2) in each pair's target, x and y in pixels, that looks most like each of its keypoints.

    The features of one category are held at a time. The cache has all images of the pairs.
    """
    rows = {id_: row for row, id_ in enumerate(cache.image_ids)}
    wanted = sorted({id_ for pair in pairs for id_ in pair.images})
    category, held = "", dict[str, Tensor]()
    found: dict[int, np.ndarray] = {}
    for place in sorted(range(len(pairs)), key=lambda place: pairs[place].images):
        pair = pairs[place]
        if pair.images[0].split("/")[0] != category:
            category = pair.images[0].split("/")[0]
            ids = [id_ for id_ in wanted if id_.split("/")[0] == category]
            volumes = torch.from_numpy(cache.read_features([rows[id_] for id_ in ids])).to(device).float()
            held = dict(zip(ids, F.normalize(volumes, dim=-1), strict=True))
        source, target = (held[id_] for id_ in pair.images)
        covered = np.array(cache.covered)[::-1]  # of width and height
        shares = pair.points[0] / _width_height(pair, 0) / covered
        best = most_similar(source, target, torch.from_numpy(shares).to(source))
        found[place] = best.cpu().double().numpy() * covered * _width_height(pair, 1)
        progress(len(found), len(pairs))
    return [found[place] for place in range(len(pairs))]


def most_similar(source: Tensor, target: Tensor, points: Tensor) -> Tensor:
    """Where in ``target`` (H, W, D) are the centres of the cells most like ``points`` (K, 2) of ``source`` (H, W, D).

    Both hold unit vectors; points are x and y, shares of the width and height. Returns (K, 2), shares alike.
    """
    grid = (2 * points - 1)[None, None]
    looks = F.grid_sample(source.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=False)[0, :, 0]
    height, width, _ = target.shape
    best = (target.flatten(0, 1) @ looks).argmax(0)
    return torch.stack([(best % width + 0.5) / width, (best // width + 0.5) / height], dim=-1)


def pck(statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The scores of pairs, whose statistics are summed: shares of right points, averaged over pairs or over points."""
    total = {name: float(values.sum()) for name, values in statistics.items()}
    if not total["pairs"]:
        return dict.fromkeys(METRICS, float("nan"))
    return {
        "pck": total["share_10"] / total["pairs"],
        "pck_points": total["right_10"] / total["points"],
        "pck_05": total["share_05"] / total["pairs"],
        "pck_15": total["share_15"] / total["pairs"],
    }


def _statistics(pairs: Sequence[KeypointPair], found: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Of each pair: whether it has points, how many, and how many of them are right, also as a share."""
    points = np.array([len(one) for one in found])
    statistics = {"pairs": (points > 0).astype(np.int64), "points": points}
    off = [np.linalg.norm(one - pair.points[1], axis=-1) / pair.extent for pair, one in zip(pairs, found, strict=True)]
    for name, share in SHARES.items():
        right = np.array([(distance <= share).sum() for distance in off])
        statistics |= {f"right_{name}": right, f"share_{name}": right / np.maximum(points, 1)}
    return statistics


def _width_height(pair: KeypointPair, which: int) -> np.ndarray:
    return np.array(pair.sizes[which][::-1], np.float64)


def _protocol(dataset: str, size: tuple[int, int], pairs: Sequence[KeypointPair], limit: int | None) -> Protocol:
    return Protocol(
        task=TASK,
        task_options={"pairs": pairs_digest(pairs), "count": len(pairs), "right": "share of the box's longer side"},
        dataset=dataset,
        output_size=size,
        readout="nearest",
        readout_options={"similarity": "cosine", "source": "bilinear", "target": "centre of the best cell"},
        optimiser={"name": "none", "lr": NOT_TRAINED},
        iterations=0,
        batch_size=1,
        order_seed=0,
        train_limit=None,
        val_limit=limit,
    )
