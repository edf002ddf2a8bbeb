"""Checksums say that a cache is what was written; running the backbone again says that what was written is right."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deapcache.backbones import Backbone
from deapcache.cache import Cache, FeatureCache
from deapcache.errors import CacheMissError
from deapcache.extraction.progress import Progress, ProgressEvent, silent
from deapcache.extraction.rebuilding import base_images, rebuild_backbone
from deapcache.extraction.settings import choose_device, default_batch_size
from deapcache.extraction.sources import CachedImages, ImageSource
from deapcache.extraction.views import viewed
from deapcache.locations import Location
from deapcache.recipe import FeatureRecipe

_SAME_NUMBERS = 0.9999
"""In fp32, devices and libraries differ by 1e-5 of a number, rounding to 16 bits adds 1e-3 (bfloat16: 4e-3) at most:
all together 1 - cosine stays below 1e-5. A wrong checkpoint, size or interpolation is above 1e-3."""

_QUANTISED = 0.99
"""One token of D int8 numbers errs by absmax / 254 at most in each, and is at least absmax long: 1 - cosine is below
D / 387,000 on average, 0.005 at D = 2,048."""

_NARROW = 0.99
"""Autocast to bf16 or fp16 rounds every product: devices then differ by some 1e-2 of a number."""


@dataclass(frozen=True, kw_only=True)
class LiveImage:
    """One image, forwarded again."""

    row: int
    image_id: str
    cosine: float
    """Of the whole stored, decoded volume and the whole recomputed one."""


@dataclass(frozen=True, kw_only=True)
class LiveReport:
    """How well stored features agree with the backbone."""

    location: str
    images: tuple[LiveImage, ...]
    least: float
    """The cosine below which an image is bad."""
    device: str

    @property
    def bad(self) -> tuple[LiveImage, ...]:
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


def verify_live(
    cache: FeatureCache,
    home: Location,
    *,
    images: int,
    seed: int = 0,
    without: Collection[int] = (),
    weights: Path | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> LiveReport:
    """Run the backbone again on ``images`` images, drawn with ``seed``, and compare with what is stored.

    Parameters
    ----------
    home
        Where the base images are.
    without
        Shards to leave alone, since they are damaged.
    weights
        The checkpoint, where one was given for the extraction.

    Raises :class:`CacheMissError` where the base images, or those of a control's statistics, are not in ``home``, and
    what building the backbone raises.
    """
    recipe = FeatureRecipe.from_json(cache.recipe)
    source = base_images(recipe, home)
    rows = _drawn(cache, source, images, seed, without)
    on = choose_device(device)
    backbone = rebuild_backbone(recipe, home, weights=weights, device=on)
    pictures = viewed(CachedImages(source), recipe.view)
    found = tuple(_compared(cache, backbone, pictures, rows, progress))
    return LiveReport(location=str(cache.location), images=found, least=least_cosine(recipe), device=str(on))


def _drawn(cache: Cache, source: Cache, images: int, seed: int, without: Collection[int]) -> list[int]:
    shards = cache.present_shards() - set(without)
    decoded = {row for shard in source.present_shards() for row in source.shard_rows(shard)}
    rows = sorted({row for shard in shards for row in cache.shard_rows(shard)} & decoded)
    if not rows:
        raise CacheMissError(f"{cache.location} and {source.location} have no image in common: nothing can be compared")
    chosen = np.random.default_rng(seed).choice(len(rows), size=min(images, len(rows)), replace=False)
    return [rows[place] for place in sorted(chosen.tolist())]


def _compared(
    cache: FeatureCache, backbone: Backbone, pictures: ImageSource, rows: Sequence[int], progress: Progress
) -> Iterator[LiveImage]:
    batch = default_batch_size(backbone.device)
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        seen = torch.from_numpy(pictures.request(some).result()).to(backbone.device)
        live = backbone(seen).cpu().numpy()
        for row, ours, theirs in zip(some, cache.read_features(some), live, strict=True):
            yield LiveImage(row=row, image_id=cache.image_ids[row], cosine=cosine(ours, theirs))
        done = start + len(some)
        progress(ProgressEvent(stage=f"{cache.backbone}: forward again", done=done, total=len(rows)))


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Of two arrays of one shape, as vectors; 1 for two of zeros, 0 for one."""
    a, b = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if not all(lengths):
        return float(lengths[0] == lengths[1])
    return float(a @ b) / (lengths[0] * lengths[1])
