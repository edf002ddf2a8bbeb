"""One readout asked at several output sizes, about cached images or photographs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deapcache.cache import FeatureCache, open_cache
from deapcache.datasets import decode_image
from deapcache.errors import CacheMissError, MissingDataError, ResultsError, UsageError
from deapcache.experiments.figures.images import base_images, first_rows
from deapcache.experiments.figures.request import FigureRequest
from deapcache.experiments.predict import TrainedRun, find_run, load_predictor
from deapcache.results import load_results
from deapcache.results.figures.canvas import Canvas
from deapcache.results.figures.resolutions import Queried, draw_resolutions
from deapcache.tasks import get_task

_SHOWN = 5
_MOST = 6
"""Sizes side by side."""


def query_resolutions(request: FigureRequest) -> Canvas:
    """The figure of a run's readout at ``request.sizes``, or at a quarter, half, once and twice its training size.

    Cached validation images need no backbone; photographs (``files``) go through it. Raises :class:`UsageError` where
    it is open which run, and what :func:`find_run`, caches and :func:`load_predictor` raise.
    """
    run = find_run(request.home, _run_name(request))
    sizes = list(request.sizes) or _around(run.readouts.output_size)
    if len(sizes) > _MOST:
        raise UsageError(f"figure resolutions shows up to {_MOST} sizes, {len(sizes)} were given: leave some out")
    shown = _of_files(run, sizes, request) if request.files else _of_cache(run, sizes, request)
    return draw_resolutions(run.result, get_task(run.result.task).picture, sizes, shown)


def _run_name(request: FigureRequest) -> str:
    if request.run:
        return request.run
    runs = [result.run for result in load_results(request.home)]
    if len(runs) == 1:
        return runs[0]
    if not runs:
        raise ResultsError(f"no results in {request.home}: train a readout with deapcache probe --task segmentation")
    more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
    raise UsageError(
        f"figure resolutions asks one readout: say which with --run and the beginning of one of "
        f"{', '.join(runs[:_SHOWN])}{more}"
    )


def _around(trained: tuple[int, int]) -> list[tuple[int, int]]:
    height, width = trained
    return [(max(round(height * by), 8), max(round(width * by), 8)) for by in (0.25, 0.5, 1, 2)]


def _of_cache(run: TrainedRun, sizes: Sequence[tuple[int, int]], request: FigureRequest) -> list[Queried]:
    cache = _features(run)
    rows = first_rows(cache, request.images)
    images = base_images(run.home, cache, rows)
    features = cache.read_features(rows).astype(np.float32)
    ids, found = cache.image_ids, _ask(run, features, images, sizes)
    return [Queried(ids[row], image, list(one)) for row, image, one in zip(rows, images, found, strict=True)]


def _features(run: TrainedRun) -> FeatureCache:
    path = run.result.caches["val"]["path"]
    try:
        cache = open_cache(run.home / path)
    except CacheMissError:
        raise CacheMissError(
            f"{run.home} does not hold {path}, the validation features of {run.result.run}: give the home of its "
            "caches with --home and the readout's file with --run, or photographs with --image"
        ) from None
    assert isinstance(cache, FeatureCache)
    return cache


def _ask(
    run: TrainedRun, features: np.ndarray, images: np.ndarray, sizes: Sequence[tuple[int, int]]
) -> list[tuple[np.ndarray, ...]]:
    """For each image its predictions, one a size."""
    import torch

    task = get_task(run.result.task, run.readouts.readout.get("task_options"))
    heads, volumes, guidance = run.readouts.build(), torch.from_numpy(features), torch.from_numpy(images)
    with torch.no_grad():
        asked = [task.prediction(torch.cat([head(volumes, size, guidance) for head in heads], 1)) for size in sizes]
    return list(zip(*(one.cpu().numpy() for one in asked), strict=True))


def _of_files(run: TrainedRun, sizes: Sequence[tuple[int, int]], request: FigureRequest) -> list[Queried]:
    for file in request.files:
        if not file.is_file():
            raise MissingDataError(f"--image {file}: no such file")
    predictor = load_predictor(run, weights=request.weights, device="cpu")
    shown = []
    for file in request.files:
        pixels = decode_image(file)
        found = predictor(pixels, sizes, name=file.name)
        seen = predictor.region(pixels)
        if predictor.task.picture != "boxes":  # which are of the whole image all the same
            pixels = pixels[seen.top : seen.top + seen.height, seen.left : seen.left + seen.width]
        shown.append(Queried(file.name, pixels, found))
    return shown
