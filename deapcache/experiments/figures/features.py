"""Feature volumes of cached images, for the figure of that name."""

from __future__ import annotations

from collections.abc import Sequence

from deapcache.cache import CacheEntry, FeatureCache, list_caches
from deapcache.cache.names import ORIGINAL
from deapcache.errors import AmbiguousCacheError, CacheMissError, UsageError
from deapcache.experiments.figures.images import base_images, first_rows
from deapcache.experiments.figures.request import FigureRequest
from deapcache.results.figures.canvas import Canvas
from deapcache.results.figures.features import Volumes, draw_features
from deapcache.results.frame import depth_in, display_name_in

_MOST = 6
"""Backbones side by side."""


def gather_features(request: FigureRequest) -> Canvas:
    """The figure of the first images of a split and their features, of the backbones asked for or all in the home.

    Raises :class:`CacheMissError` where there are none, :class:`UsageError` where it is open which dataset or there
    are too many backbones, and :class:`AmbiguousCacheError` where one layer of a backbone has several caches.
    """
    dataset, entries = _entries(request)
    caches = [cache for entry in entries if isinstance(cache := entry.open(), FeatureCache)]
    rows = first_rows(caches[0], request.images)
    ids = caches[0].image_ids
    for cache in caches:
        if cache.image_ids != ids:
            raise UsageError(
                f"{cache.location} and {caches[0].location} are not of the same images: choose one with --backbone"
            )
    names = [display_name_in(entry.fields) for entry in entries]
    found = [Volumes(name, cache.read_features(rows)) for name, cache in zip(names, caches, strict=True)]
    images = base_images(request.home, caches[0], rows)
    return draw_features(images, [ids[row] for row in rows], found, source=f"{dataset}, {request.split}")


def _entries(request: FigureRequest) -> tuple[str, Sequence[CacheEntry]]:
    every = [e for e in list_caches(request.home, "features") if e.split == request.split]
    every = [e for e in every if e.fields["view"] == ORIGINAL]
    datasets = sorted({entry.dataset for entry in every})
    wanted = request.selection.datasets or datasets
    if not every or not set(wanted) & set(datasets):
        there = f"there are those of {', '.join(datasets)}" if datasets else "there are none"
        raise CacheMissError(
            f"{request.home} holds no features of {', '.join(wanted) or 'any dataset'}, split {request.split}; "
            f"{there}: "
            "run deapcache extract --dataset NAME --backbone NAME"
        )
    if len(wanted) > 1:
        raise UsageError(f"figure features shows one dataset, and there are {', '.join(wanted)}: say --dataset")
    return wanted[0], _chosen(request, [entry for entry in every if entry.dataset == wanted[0]])


def _chosen(request: FigureRequest, entries: Sequence[CacheEntry]) -> Sequence[CacheEntry]:
    """One cache for each layer of each backbone, in the order asked for and by depth."""
    there = sorted({entry.name for entry in entries})
    chosen = [
        entry for name in request.selection.backbones or there for entry in _layers(request, entries, name, there)
    ]
    if len(chosen) > _MOST:
        raise UsageError(
            f"figure features shows up to {_MOST} backbones, and there are "
            f"{', '.join(display_name_in(entry.fields) for entry in chosen)}: choose with --backbone A,B"
        )
    return chosen


def _layers(
    request: FigureRequest, entries: Sequence[CacheEntry], name: str, there: Sequence[str]
) -> Sequence[CacheEntry]:
    fitting = sorted((entry for entry in entries if entry.name == name), key=lambda entry: depth_in(entry.fields))
    if not fitting:
        raise CacheMissError(
            f"{request.home} holds no features of {name}: there are {', '.join(there)}; "
            f"run deapcache extract --backbone {name}"
        )
    told = [display_name_in(entry.fields) for entry in fitting]
    alike = [entry.path for entry, one in zip(fitting, told, strict=True) if told.count(one) > 1]
    if alike:
        raise AmbiguousCacheError(
            f"{request.home} holds {len(alike)} caches of {name} for this dataset and split ({', '.join(alike)}): "
            "choose other backbones with --backbone"
        )
    return fitting
