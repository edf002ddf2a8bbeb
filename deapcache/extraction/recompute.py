"""Run the backbone of stored features again: checksums only say that a cache is what was written.

A recipe says which backbone made the features, and which base images these are from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deapcache.backbones import (
    DEFAULT_LAYERS,
    LAST,
    NO_TOKENS,
    Backbone,
    LayerSelection,
    build,
    build_by_digest,
    describe,
)
from deapcache.cache import Cache, FeatureCache, list_caches
from deapcache.cache.progress import Progress, ProgressEvent, no_progress
from deapcache.datasets import INTERPOLATION
from deapcache.errors import CacheMissError, WeightsError
from deapcache.extraction.pipeline import CachedImages, ImageSource, calibrate, in_view
from deapcache.extraction.settings import choose_device, default_batch_size, parse_base_size
from deapcache.locations import Location
from deapcache.recipe import Difference, FeatureRecipe, differences

_SAME_NUMBERS = 0.9999
"""In fp32, devices and libraries differ by 1e-5 of a number, rounding to 16 bits adds 1e-3 (bfloat16: 4e-3) at most:
all together 1 - cosine stays below 1e-5. A wrong checkpoint, size or interpolation is above 1e-3."""

_QUANTISED = 0.99
"""One token of D int8 numbers errs by absmax / 254 at most in each, and is at least absmax long: 1 - cosine is below
D / 387,000 on average, 0.005 at D = 2,048."""

_NARROW = 0.99
"""Autocast to bf16 or fp16 rounds every product: devices then differ by some 1e-2 of a number."""


@dataclass(frozen=True, kw_only=True)
class RecomputedImage:
    """One image that the backbone forwarded again."""

    row: int
    image_id: str
    cosine: float
    """Of the whole stored, decoded volume and the whole recomputed one."""


@dataclass(frozen=True, kw_only=True)
class RecomputeReport:
    """How well stored features agree with recomputed ones."""

    location: str
    images: tuple[RecomputedImage, ...]
    least: float
    """The cosine below which an image is bad."""
    device: str

    @property
    def bad(self) -> tuple[RecomputedImage, ...]:
        """The images that do not agree."""
        return tuple(image for image in self.images if not image.cosine >= self.least)

    @property
    def minimum(self) -> float:
        """The least cosine of all images."""
        return min(image.cosine for image in self.images)

    @property
    def median(self) -> float:
        """The median cosine."""
        return float(np.median([image.cosine for image in self.images]))

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        facts = {"minimum": self.minimum, "median": self.median, "bad": [image.image_id for image in self.bad]}
        return {**asdict(self), **facts}


def least_cosine(recipe: FeatureRecipe) -> float:
    """The cosine that a stored volume must have with a recomputed one, by how it was computed and stored."""
    if recipe.precision != "fp32":
        return _NARROW
    return _QUANTISED if recipe.storage == "int8" else _SAME_NUMBERS


def recompute_check(
    cache: FeatureCache,
    home: Location,
    *,
    images: int,
    seed: int = 0,
    without: Collection[int] = (),
    weights: Path | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
) -> RecomputeReport:
    """Run the backbone again on ``images`` images, drawn with ``seed``, and compare with what is stored.

    Parameters
    ----------
    home
        Where the base images are.
    without
        Damaged shards, which the comparison leaves out.
    weights
        The checkpoint, where one was given for the extraction.

    Raises :class:`CacheMissError` where the base images, or those of a control's statistics, are not in ``home``, and
    what building the backbone raises.
    """
    recipe = FeatureRecipe.from_json(cache.recipe)
    source = base_images(recipe, home)
    rows = _draw_rows(cache, source, images, seed, without)
    on = choose_device(device)
    backbone = rebuild_backbone(recipe, home, weights=weights, device=on)
    pictures = in_view(CachedImages(source), recipe.view)
    found = tuple(_compare(cache, backbone, pictures, rows, progress))
    return RecomputeReport(location=str(cache.location), images=found, least=least_cosine(recipe), device=str(on))


def _draw_rows(cache: Cache, source: Cache, images: int, seed: int, without: Collection[int]) -> list[int]:
    shards = cache.present_shards() - set(without)
    decoded = {row for shard in source.present_shards() for row in source.shard_rows(shard)}
    rows = sorted({row for shard in shards for row in cache.shard_rows(shard)} & decoded)
    if not rows:
        raise CacheMissError(f"{cache.location} and {source.location} have no image in common: nothing can be compared")
    chosen = np.random.default_rng(seed).choice(len(rows), size=min(images, len(rows)), replace=False)
    return [rows[place] for place in sorted(chosen.tolist())]


def _compare(
    cache: FeatureCache, backbone: Backbone, pictures: ImageSource, rows: Sequence[int], progress: Progress
) -> Iterator[RecomputedImage]:
    batch = default_batch_size(backbone.device)
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        seen = torch.from_numpy(pictures.request(some).result()).to(backbone.device)
        live = backbone(seen).cpu().numpy()
        for row, ours, theirs in zip(some, cache.read_features(some), live, strict=True):
            yield RecomputedImage(row=row, image_id=cache.image_ids[row], cosine=cosine(ours, theirs))
        done = start + len(some)
        progress(ProgressEvent(stage=f"{cache.backbone}: forward again", done=done, total=len(rows)))


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Of two arrays of one shape, as vectors; 1 for two of zeros, 0 for one."""
    a, b = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if not all(lengths):
        return float(lengths[0] == lengths[1])
    return float(a @ b) / (lengths[0] * lengths[1])


def rebuild_backbone(recipe: FeatureRecipe, home: Location, *, weights: Path | None, device: torch.device) -> Backbone:
    """The frozen backbone that made features of ``recipe``, on ``device``.

    ``weights`` is the checkpoint where one was given for the extraction. The batch-norm statistics of an untrained
    control are estimated again, from base images in ``home``.

    Raises :class:`WeightsError` that says in what the backbone differs from the recipe's, :class:`CacheMissError` where
    images for a control's statistics are missing, and what :func:`deapcache.backbones.build` raises.
    """
    backbone = build_from_recipe(recipe, weights)
    if found := identity_mismatch(backbone, recipe):
        listed = "; ".join(f"{one.field}: {one.left!r} there, {one.right!r} here" for one in found)
        raise WeightsError(
            f"backbone {recipe.backbone} is not the one that the features are from ({listed}): give the checkpoint "
            "that they were extracted with (--weights FILE), or use the deapcache that extracted them"
        )
    backbone.to(device)
    if not backbone.needs_calibration:
        return backbone
    images = calibration_images(recipe, home)
    if images is None:
        raise CacheMissError(
            f"the features of {recipe.backbone} need {recipe.calibration}, and {home} does not hold these as base "
            f"images of {recipe.base_size}"
        )
    made = calibrate(backbone, CachedImages(images), len(images), images.recipe["images"])
    if made != recipe.calibration:
        raise WeightsError(
            f"the features are of {backbone.name} calibrated as {recipe.calibration!r}, which this deapcache does not "
            f"do (it would: {made!r}): use the deapcache that extracted them"
        )
    return backbone


def build_from_recipe(recipe: FeatureRecipe, weights: Path | None, layers: Sequence[str] = ()) -> Backbone:
    """The backbone of ``recipe`` with its layer and tokens, on the CPU, neither calibrated nor compared with it.

    ``layers``, as recipes name them, where its forward shall give several in place of the recipe's one.
    """
    entry = describe(recipe.backbone)
    wanted = tuple(
        LAST if layer == entry.layer or not layer.isdecimal() else layer for layer in layers or (recipe.layer,)
    )
    own = (wanted, recipe.tokens, recipe.final_norm) == ((LAST,), NO_TOKENS, entry.final_norm)
    selection = (
        DEFAULT_LAYERS if own else LayerSelection(layers=wanted, final_norm=recipe.final_norm, tokens=recipe.tokens)
    )
    options: dict[str, Any] = {"image_size": recipe.image_size, "precision": recipe.precision, "selection": selection}
    if weights is None:
        return build(recipe.backbone, **options)
    return build_by_digest(recipe.backbone, recipe.weights, weights=weights, **options)


def identity_mismatch(backbone: Backbone, recipe: FeatureRecipe) -> list[Difference]:
    """The recipe fields in which features of ``backbone`` would differ from ``recipe``: there, and here."""
    identity = {field.name: getattr(backbone.identity, field.name) for field in fields(backbone.identity)}
    here = replace(recipe, **identity, precision=backbone.precision, base_interpolation=INTERPOLATION, tf32=False)
    return differences(recipe.to_json(), here.to_json())


def base_images(recipe: FeatureRecipe, home: Location) -> Cache:
    """The base images that features of ``recipe`` are from; raises :class:`CacheMissError`."""
    size = parse_base_size(recipe.base_size)
    wanted = {
        "images": recipe.images,
        "size": list(size),
        "fit": recipe.base_fit,
        "interpolation": recipe.base_interpolation,
        "colour": recipe.colour,
    }
    for entry in list_caches(home, "images"):
        if all(entry.fields[field] == value for field, value in wanted.items()):
            return entry.open()
    reason = "they are of native images, which are not cached" if size == "native" else f"of {recipe.base_size}"
    raise CacheMissError(f"{home} does not hold the base images of these features ({reason})")


def calibration_images(recipe: FeatureRecipe, home: Location) -> Cache | None:
    """The base images that a control's batch-norm statistics are from, where ``home`` holds them."""
    brought_to = parse_base_size(recipe.base_size), recipe.base_fit
    for entry in list_caches(home, "images"):
        found = tuple(entry.recipe["size"]), entry.recipe["fit"]
        if entry.recipe["images"] in recipe.calibration and found == brought_to:
            return entry.open()
    return None
