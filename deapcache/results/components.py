"""A few feature volumes as pictures: their first three principal components as red, green and blue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from deapcache.cache import HFLIP, CacheEntry, FeatureCache, mirror
from deapcache.errors import IncompleteCacheError, UsageError
from deapcache.recipe import SHORT
from deapcache.results.literal import shortened
from deapcache.results.page import GAP, LINE, MARGIN, Page, wrapped

_TILE = 1.75
"""Height of one picture, inches."""
_ACROSS = 4
"""Images side by side."""
_LEAST_WIDTH = 6.0
"""Of the page, for its title."""
_LOW, _HIGH = 1, 99
"""Percentiles of a component that become 0 and 1: a few outliers would leave the rest grey."""


@dataclass(frozen=True, kw_only=True)
class Components:
    """Feature volumes in three numbers a cell."""

    colours: np.ndarray
    """(n, H, W, 3) float32 in [0, 1]."""
    explained: tuple[float, float, float]
    """Each component's share of the variance over all cells of all volumes."""


def principal_components(volumes: np.ndarray) -> Components:
    """The first three principal components over all cells of ``volumes`` (n, H, W, D), D at least 1.

    The sign of a component is such that its largest weight is positive, so that the same features always give the same
    colours. Features without variance are grey.
    """
    cells = volumes.reshape(-1, volumes.shape[-1]).astype(np.float64)
    centred = cells - cells.mean(axis=0)
    variances, vectors = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(variances)[::-1][:3]
    chosen = vectors[:, order]
    chosen = chosen * np.where(chosen[np.abs(chosen).argmax(axis=0), np.arange(len(order))] < 0, -1.0, 1.0)
    scores = np.zeros((len(cells), 3))
    scores[:, : len(order)] = centred @ chosen
    total = float(np.clip(variances, 0, None).sum())
    shares = [max(float(variances[place]), 0.0) / total if total > 0 else 0.0 for place in order]
    first, second, third = (*shares, 0.0, 0.0, 0.0)[:3]
    colours = _stretched(scores).reshape(*volumes.shape[:-1], 3).astype(np.float32)
    return Components(colours=colours, explained=(first, second, third))


def _stretched(scores: np.ndarray) -> np.ndarray:
    """Each column brought to [0, 1] by percentiles; a constant one to 0.5."""
    low, high = np.percentile(scores, (_LOW, _HIGH), axis=0)
    flat = high - low <= 1e-12 * max(1.0, float(np.abs(scores).max(initial=0.0)))
    width = np.where(flat, 1.0, high - low)
    return np.where(flat, 0.5, np.clip((scores - low) / width, 0.0, 1.0))


def picture_of_cache(features: CacheEntry, images: CacheEntry | None, count: int) -> bytes:
    """A PNG of ``count`` volumes spread over a feature cache, with the base images of ``images`` where it has them.

    Raises :class:`IncompleteCacheError` for a cache without any volume, :class:`UsageError` for another kind of cache.
    """
    cache = features.open()
    if not isinstance(cache, FeatureCache):
        raise UsageError(f"{features.path} holds {features.kind}: a picture is drawn of features")
    rows = _spread([row for shard in sorted(cache.present_shards()) for row in cache.shard_rows(shard)], count)
    if not rows:
        raise IncompleteCacheError(f"{cache.location} has no volumes yet: extract first")
    return _page_of_rows(cache, features, images, rows).png()


def figure_of_rows(cache: FeatureCache, features: CacheEntry, images: CacheEntry | None, rows: Sequence[int]) -> Figure:
    """The volumes in ``rows`` of the open ``cache``, as :func:`picture_of_cache` draws them; at least one row."""
    return _page_of_rows(cache, features, images, rows).figure


def _page_of_rows(cache: FeatureCache, features: CacheEntry, images: CacheEntry | None, rows: Sequence[int]) -> Page:
    pictures = _pictures(images, rows, features.fields["view"])
    named = [features.name, f"{features.dataset} {features.split}".strip(), cache.storage, features.digest[:SHORT]]
    components = principal_components(cache.read_features(rows))
    ids = [cache.image_ids[row] for row in rows]
    return _page(components, pictures, ids, [" · ".join(filter(None, named))])


def _spread(rows: Sequence[int], count: int) -> list[int]:
    """``count`` of the rows at equal distances, the first among them."""
    return [rows[place * len(rows) // count] for place in range(count)] if len(rows) > count else list(rows)


def _pictures(images: CacheEntry | None, rows: Sequence[int], view: str) -> np.ndarray | None:
    """(n, h, w, 3) uint8; None where some are not cached."""
    cache = images.open() if images else None
    if cache is None or not cache.is_complete(rows):
        return None
    found = cache.read(rows)
    return mirror("images", found) if view == HFLIP else found


def draw_components(
    components: Components, images: np.ndarray | None, image_ids: Sequence[str], title: Sequence[str]
) -> bytes:
    """A PNG: for each volume its components as colours, the image (n, h, w, 3) uint8 before it where there are images.

    ``title`` stands above, a line each.
    """
    return _page(components, images, image_ids, title).png()


def _page(components: Components, images: np.ndarray | None, image_ids: Sequence[str], title: Sequence[str]) -> Page:
    layout = _Layout(components, images, title)
    for place, image_id in enumerate(image_ids):
        layout.place(place, image_id)
    return layout.page


class _Layout:
    """Where things stand, in inches from the upper left corner."""

    def __init__(self, components: Components, images: np.ndarray | None, title: Sequence[str]) -> None:
        self._sets = [components.colours] if images is None else [images, components.colours]
        _, height, width, _ = self._sets[0].shape
        self._tile = _TILE * width / height
        count = len(components.colours)
        self._across = min(_ACROSS, count)
        self._step = len(self._sets) * (self._tile + GAP) + GAP
        page_width = max(2 * MARGIN + self._across * self._step, _LEAST_WIDTH)
        shares = ", ".join(f"{share:.0%}" for share in components.explained)
        about = f"red, green, blue: principal components 1, 2, 3 of these volumes, {shares} of their variance"
        lines = wrapped([*title, about], page_width)
        self._top = MARGIN + LINE * (len(lines) + 1.5)
        rows = -(-count // self._across)
        self.page = Page(page_width, self._top + rows * (_TILE + LINE + GAP) + MARGIN)
        self.page.place_title(MARGIN, lines)

    def place(self, place: int, image_id: str) -> None:
        """Draw one image and its components."""
        row, column = divmod(place, self._across)
        top = self._top + row * (_TILE + LINE + GAP)
        for number, pictures in enumerate(self._sets):
            left = MARGIN + column * self._step + number * (self._tile + GAP)
            axis = self.page.axes(left, top, self._tile, _TILE)
            axis.imshow(pictures[place], interpolation="nearest", aspect="auto")
            axis.set_xticks([])
            axis.set_yticks([])
            if number == 0:
                axis.set_title(shortened(image_id, 24), fontsize=7, pad=2, loc="left")
