"""From a request to a figure: gathers results, features, images and predictions, and has them drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deapcache.backbones import extract_options
from deapcache.cache import Cache, CacheEntry, FeatureCache, list_caches, open_cache
from deapcache.cache.names import ORIGINAL
from deapcache.datasets import decode_image
from deapcache.errors import AmbiguousCacheError, CacheMissError, MissingDataError, ResultsError, UsageError
from deapcache.experiments.predict import TrainedRun, find_run, load_predictor, some_of
from deapcache.experiments.probe import base_images
from deapcache.extraction import parse_base_size
from deapcache.locations import Location
from deapcache.probing import model_of
from deapcache.results import Result, Selection, load_results, select, table_rows
from deapcache.results.figures import find_figure
from deapcache.results.frame import depth_in, display_name_in
from deapcache.tasks import Task, get_task

if TYPE_CHECKING:  # all load matplotlib or torch
    import torch

    from deapcache.results.figures.groups import Group
    from deapcache.results.figures.images import Sample
    from deapcache.results.figures.style import Canvas

_MOST = 6
"""Backbones or sizes side by side."""


@dataclass(frozen=True, kw_only=True)
class FigureRequest:
    """Which figure, of what; each figure takes its own part of it."""

    name: str
    home: Location
    selection: Selection = field(default_factory=Selection)
    """Of results; of features its datasets and backbones."""
    rates: Sequence[float] = ()
    """Learning rates that may be shown; none: the one that most backbones were probed at."""
    paper: bool = False
    """Whether the paper's numbers are shown too, marked as such."""
    reference: Path | None = None
    """CSV of scores to compare with."""
    speed_device: str | None = None
    """Whose speeds are shown; None: of the device with the most backbones."""
    run: str | None = None
    sizes: Sequence[tuple[int, int]] = ()
    """(height, width) of predictions, pixels."""
    images: int = 3
    """How many images of the validation split are shown."""
    files: Sequence[Path] = ()
    """Photographs to show instead."""
    weights: Path | None = None
    """Checkpoint of the backbone, where one was given for the extraction and photographs are shown."""
    split: str = "val"


def make_figure(request: FigureRequest) -> Canvas:
    """The figure, to be saved with ``Canvas.save("svg")``.

    Raises :class:`deapcache.errors.UnknownNameError` for a name that is none, :class:`ResultsError` that names the
    command to run where results are missing, and what opening caches and readouts raises.
    """
    from deapcache.results.figures import (
        correlations,
        instance_awareness,
        label_efficiency,
        parameters,
        sigma,
        speed_quality,
    )
    from deapcache.results.speeds import load_speeds

    name = find_figure(request.name).name
    if name == "resolutions":
        return _resolutions(request)
    if name == "features":
        return _features(request)
    if name == "correlations":
        read, file = correlations.read_reference, request.reference
        references = read(file) if file else correlations.shipped_references()
        return correlations.draw_correlations(_groups(request), references, paper=request.paper)
    if name == "speed-quality":
        speeds = load_speeds(request.home, request.speed_device)
        return speed_quality.draw_speed_quality(_groups(request), speeds, paper=request.paper)
    if name == "instance-awareness":
        return instance_awareness.draw_instance_awareness(_groups(request), paper=request.paper)
    if name == "label-efficiency":
        return label_efficiency.draw_label_efficiency(_groups(request))
    if name == "parameters":
        return parameters.draw_parameters(_groups(request), paper=request.paper)
    return sigma.draw_sigma(_groups(request))


def _groups(request: FigureRequest) -> list[Group]:
    """The results that are asked for; with the paper's numbers there may be none."""
    from deapcache.results.figures.groups import group_results

    found = load_results(request.home)
    if not found and not request.paper:
        needs = find_figure(request.name).needs
        raise ResultsError(f"no results in {request.home}: figure {request.name} needs {needs} --home {request.home}")
    return group_results(table_rows(select(found, request.selection)), request.rates)


def _resolutions(request: FigureRequest) -> Canvas:
    """A run's readout at ``request.sizes``, or at a quarter, half, once and twice its training size.

    Cached validation images need no backbone; photographs (``files``) go through it. Raises :class:`UsageError` where
    it is open which run, and what :func:`find_run`, caches and :func:`load_predictor` raise.
    """
    from deapcache.results.figures.images import draw_resolutions

    run = find_run(request.home, request.run or _only_run(request.home))
    height, width = run.readouts.output_size
    sizes = list(request.sizes) or [(max(round(height * by), 8), max(round(width * by), 8)) for by in (0.25, 0.5, 1, 2)]
    if len(sizes) > _MOST:
        raise UsageError(f"figure resolutions shows up to {_MOST} sizes, {len(sizes)} were given: leave some out")
    samples = _predict_files(run, sizes, request) if request.files else _predict_cached(run, sizes, request.images)
    return draw_resolutions(run.result, sizes, samples)


def _only_run(home: Location) -> str:
    runs = [result.run for result in load_results(home)]
    if len(runs) == 1:
        return runs[0]
    if not runs:
        raise ResultsError(f"no results in {home}: train a readout with deapcache probe --task segmentation")
    raise UsageError(
        f"figure resolutions asks one readout: say which with --run and the beginning of one of {some_of(runs)}"
    )


def _predict_cached(run: TrainedRun, sizes: Sequence[tuple[int, int]], images: int) -> list[Sample]:
    from deapcache.results.figures.images import Sample

    cache = _open_read(run, "val")
    rows = _first_rows(cache, images)
    task, shown, outputs = _outputs(run, rows, sizes)
    found = [task.prediction(output) for output in outputs]
    return [
        Sample(cache.image_ids[row], shown[place], [one[place].cpu().numpy() for one in found])
        for place, row in enumerate(rows)
    ]


def _outputs(
    run: TrainedRun, rows: Sequence[int], sizes: Sequence[tuple[int, int]]
) -> tuple[Task, np.ndarray, list[torch.Tensor]]:
    """The task of a run, base images (n, h, w, 3) of ``rows`` of its validation split, and what its readouts give."""
    import torch

    caches = [_open_read(run, name) for name in ("val", *(f"val layer {layer}" for layer in run.layers[1:]))]
    shown = _base_images(run.home, caches[0], rows)
    heads = run.readouts.build()
    volumes = np.concatenate([layer.read_features(rows).astype(np.float32) for layer in caches], -1)
    features, guidance = torch.from_numpy(volumes), torch.from_numpy(shown)
    with torch.no_grad():
        outputs = [torch.cat([head(features, size, guidance) for head in heads], 1) for size in sizes]
    return get_task(run.result.task, run.readouts.readout.get("task_options")), shown, outputs


def draw_runs(home: Location, results: Sequence[Result], names: Sequence[str], images: Mapping[str, str]) -> Canvas:
    """Predictions of several runs of one task side by side, beside the labels; ``images``: id → what to write there."""
    import torch

    from deapcache.results.figures.images import draw_side_by_side

    columns = []
    for result in results:
        run = find_run(home, result.run)
        ids = _open_read(run, "val").image_ids
        rows = sorted(map(ids.index, images))
        task, shown, (output,) = _outputs(run, rows, [run.readouts.output_size])
        targets = {name: open_cache(home / result.caches[f"val {name} targets"]["path"]) for name in task.annotations}
        target = task.target({name: torch.from_numpy(cache.read(rows)) for name, cache in targets.items()})
        columns.append([part.cpu().numpy() for part in task.picture_values(output, target)])
    places = [rows.index(ids.index(name)) for name in images]
    return draw_side_by_side(
        task.picture,
        results[0].classes,
        names,
        images=[shown[place] for place in places],
        targets=[columns[0][0][place] for place in places],
        predictions=[[prediction[place] for _, prediction in columns] for place in places],
        sides=list(images.values()),
    )


def _open_read(run: TrainedRun, name: str) -> FeatureCache:
    """One of the caches that a run has read, by the name that its result has for it."""
    path = run.result.caches[name]["path"]
    try:
        cache = open_cache(run.home / path)
    except CacheMissError:
        raise CacheMissError(
            f"{run.home} does not hold {path}, the validation features of {run.result.run}: give the home of its "
            "caches with --home and the readout's file with --run, or photographs with --image"
        ) from None
    assert isinstance(cache, FeatureCache)
    return cache


def _predict_files(run: TrainedRun, sizes: Sequence[tuple[int, int]], request: FigureRequest) -> list[Sample]:
    from deapcache.results.figures.images import Sample

    for file in request.files:
        if not file.is_file():
            raise MissingDataError(f"--image {file}: no such file")
    predictor = load_predictor(run, weights=request.weights, device="cpu")
    samples = []
    for file in request.files:
        pixels = decode_image(file)
        found = predictor(pixels, sizes, name=file.name)
        seen = predictor.region(pixels)
        if predictor.task.picture != "boxes":  # which are of the whole image all the same
            pixels = pixels[seen.top : seen.top + seen.height, seen.left : seen.left + seen.width]
        samples.append(Sample(file.name, pixels, found))
    return samples


def _features(request: FigureRequest) -> Canvas:
    """The first images of a split and their features, of the backbones asked for or all in the home.

    Raises :class:`CacheMissError` where there are none, :class:`UsageError` where it is open which dataset or there
    are too many backbones, and :class:`AmbiguousCacheError` where one layer of a backbone has several caches.
    """
    from deapcache.results.figures.images import draw_features

    dataset, entries = _feature_caches(request)
    caches = [cache for entry in entries if isinstance(cache := entry.open(), FeatureCache)]
    rows = _first_rows(caches[0], request.images)
    ids = caches[0].image_ids
    for cache in caches:
        if cache.image_ids != ids:
            raise UsageError(
                f"{cache.location} and {caches[0].location} are not of the same images: choose one with --backbone"
            )
    volumes = {
        display_name_in(entry.name, entry.fields): cache.read_features(rows)
        for entry, cache in zip(entries, caches, strict=True)
    }
    images = _base_images(request.home, caches[0], rows)
    return draw_features(images, [ids[row] for row in rows], volumes, source=f"{dataset}, {request.split}")


def _feature_caches(request: FigureRequest) -> tuple[str, list[CacheEntry]]:
    """The dataset, and one cache for each layer of each backbone, in the order asked for and by depth."""
    every = [e for e in list_caches(request.home, "features") if e.split == request.split]
    every = [e for e in every if e.fields["view"] == ORIGINAL]
    datasets = sorted({entry.dataset for entry in every})
    wanted = request.selection.datasets or datasets
    if not every or not set(wanted) & set(datasets):
        there = f"there are those of {', '.join(datasets)}" if datasets else "there are none"
        raise CacheMissError(
            f"{request.home} holds no features of {', '.join(wanted) or 'any dataset'}, split {request.split}; "
            f"{there}: run deapcache extract --dataset NAME --backbone NAME"
        )
    if len(wanted) > 1:
        raise UsageError(f"figure features shows one dataset, and there are {', '.join(wanted)}: say --dataset")
    entries = [entry for entry in every if entry.dataset == wanted[0]]
    names = sorted({entry.name for entry in entries})
    chosen = []
    for name in request.selection.backbones or names:
        layers = sorted((entry for entry in entries if entry.name == name), key=lambda entry: depth_in(entry.fields))
        if not layers:
            raise CacheMissError(
                f"{request.home} holds no features of {name}: there are {', '.join(names)}; "
                f"run deapcache extract {extract_options(name, model_of(request.home, name))}"
            )
        named = [display_name_in(entry.name, entry.fields) for entry in layers]
        same = [entry.path for entry, one in zip(layers, named, strict=True) if named.count(one) > 1]
        if same:
            raise AmbiguousCacheError(
                f"{request.home} holds {len(same)} caches of {name} for this dataset and split ({', '.join(same)}): "
                "choose other backbones with --backbone"
            )
        chosen += layers
    if len(chosen) > _MOST:
        raise UsageError(
            f"figure features shows up to {_MOST} backbones, and there are "
            f"{', '.join(display_name_in(entry.name, entry.fields) for entry in chosen)}: choose with --backbone A,B"
        )
    return wanted[0], chosen


def _first_rows(cache: Cache, count: int) -> list[int]:
    """The first ``count`` rows of a cache; raises :class:`UsageError` for a count that is none."""
    if count < 1:
        raise UsageError(f"--images {count}: expected 1 or more")
    return list(range(min(count, len(cache))))


def _base_images(home: Location, features: Cache, rows: Sequence[int]) -> np.ndarray:
    """(n, h, w, 3) uint8 RGB: what the rows of a cache of features show.

    Raises :class:`CacheMissError` where the home does not hold them.
    """
    recipe, size = features.recipe, parse_base_size(features.recipe["base_size"])
    for cache in base_images(home, recipe, size) if size != "native" else ():
        return cache.read(rows)
    raise CacheMissError(
        f"{home} does not hold the base images of {features.location} (base size {recipe['base_size']}, fit "
        f"{recipe['base_fit']}), beside which its features are shown: deapcache extract --dataset NAME --backbone "
        f"{recipe['backbone']} keeps them, but for --base-size native"
    )
