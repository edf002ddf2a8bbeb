"""What trained readouts say about images that no cache holds, at any output size.

:func:`find_run` takes what a user calls a run, :func:`load_predictor` builds its backbone and readouts, and
:func:`predict_files` writes pictures and arrays of image files.
"""

from __future__ import annotations

import difflib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deapcache.annotations import get_annotation
from deapcache.backbones import Backbone
from deapcache.cache import decode_features, encode_features
from deapcache.cache.features import CLS, encode_cls
from deapcache.datasets import COLOUR, decode_image, resize_image
from deapcache.datasets.io import file_errors
from deapcache.errors import (
    CacheMissError,
    DataError,
    DeapcacheError,
    FeatureError,
    MissingDataError,
    ResultsError,
    UnknownNameError,
    UsageError,
)
from deapcache.extraction import (
    CachedImages,
    build_from_recipe,
    calibrate,
    calibration_images,
    choose_device,
    identity_mismatch,
    parse_base_size,
)
from deapcache.locations import LocalLocation, Location, expanded, locate
from deapcache.openmp import sleep_if_cores_are_short
from deapcache.probing.caches import with_class_token
from deapcache.readouts import Readout
from deapcache.recipe import FeatureRecipe, differences
from deapcache.regions import Region, Size, seen_region
from deapcache.results import ReadoutFile, Result, load_readout_file, load_results
from deapcache.results.files import runs_in
from deapcache.results.frame import layers_of
from deapcache.results.record import readout_key
from deapcache.tasks import Task, get_task

_FOLDER, _SUFFIX = "readouts/", ".safetensors"
_SHOWN = 5
"""Names that a message spells out."""

_OF_ONE_IMAGE = (DataError, MissingDataError, FeatureError)
"""Errors that say nothing about the other images."""


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """One run with its readouts at rest."""

    home: Location
    """Where it was found."""
    result: Result
    readouts: ReadoutFile

    @property
    def recipe(self) -> FeatureRecipe:
        """How the features that it was trained on were made."""
        return FeatureRecipe.from_json(self.result.caches["train"]["recipe"])

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose features were joined, that of :attr:`recipe` first; empty where one was read."""
        return layers_of(self.result)

    @property
    def joins_tokens(self) -> bool:
        """Whether the class token of each layer stands beside its features in every cell: of joined layers alone."""
        return bool(self.layers) and self.recipe.tokens == CLS


def find_run(home: Location, given: str) -> TrainedRun:
    """The run that ``given`` means: its name, a beginning that no other run of ``home`` has, or its readout's file.

    A file is ``HOME/readouts/RUN.safetensors``, a path or URL in any home. Raises :class:`UnknownNameError` with the
    nearest names, :class:`UsageError` for a beginning that several runs have, and :class:`ResultsError` where the
    readout or its result is not there, or damaged.
    """
    if given.endswith(_SUFFIX):
        text = given if "://" in given else str(expanded(given).absolute())
        root, folder, file = text.rpartition(f"/{_FOLDER}")
        if not folder or "/" in file:
            raise UsageError(
                f"readout file {given}: expected HOME/{_FOLDER}RUN{_SUFFIX} as `deapcache probe` leaves it, "
                "beside HOME/results, which says what its features are"
            )
        home, name = locate(root or "/"), file.removesuffix(_SUFFIX)
    else:
        name = _whole_name(home, given)
    readouts = load_readout_file(home, name)
    return TrainedRun(home=home, result=load_results(home, [name])[0], readouts=readouts)


def _whole_name(home: Location, given: str) -> str:
    if home.exists(readout_key(given)):
        return given
    if not home.can_list:
        raise UnknownNameError(f"{home} has no readout {given!r}: it cannot be listed, so give the run's whole name")
    names = runs_in(home, _FOLDER.rstrip("/"), _SUFFIX)
    fitting = [name for name in names if name.startswith(given)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(
            f"{len(fitting)} runs in {home} begin with {given!r}: {some_of(fitting)}; give more of the name"
        )
    if not names:
        raise ResultsError(f"{home} has no readouts: train one with `deapcache probe --task NAME --home {home}`")
    beginnings = difflib.get_close_matches(given, {name[: len(given)] for name in names}, n=3, cutoff=0.7)
    near = [name for name in names if given in name] or [name for name in names if name[: len(given)] in beginnings]
    hint = f"near it are {some_of(near)}" if near else f"there are {some_of(names)}"
    raise UnknownNameError(f"no run in {home} begins with {given!r}: {hint}")


def some_of(names: Sequence[str]) -> str:
    """The first few of several names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """What a run learned, ready to be asked; :func:`load_predictor` makes it."""

    run: TrainedRun
    task: Task
    backbone: Backbone
    heads: Sequence[Readout]
    """The task's readouts, on the backbone's device."""

    def __call__(self, image: np.ndarray, sizes: Sequence[Size] = (), *, name: str = "the image") -> list[np.ndarray]:
        """What ``Task.prediction`` makes of the readouts' output for one image, at each of ``sizes``.

        The image takes the way of the images that the features were extracted from: to the base size, through the
        backbone, rounded as the cache stores it. Maps are of the part of it that :meth:`region` gives; boxes are
        fractions of the whole image.

        Parameters
        ----------
        image
            (h, w, 3) uint8 RGB, of any size and shape.
        sizes
            (height, width) in pixels each; none: the one that the readout was trained at.
        name
            What to call the image in an error.

        Returns
        -------
        list of arrays
            One a size: (height, width) probabilities, classes or metres; (100, 5) boxes; (32, height, width) embedding.

        Raises :class:`deapcache.errors.FeatureError` where the backbone gives features that cannot be stored, and
        :class:`UsageError` where the memory is not enough for a size.
        """
        base = resize_image(image, self._base_size, self.run.recipe.base_fit)
        guidance = torch.from_numpy(base)[None].to(self.backbone.device)
        # with what is lost on the way into a cache
        storage = self.run.recipe.storage
        layers = [
            part
            for one in self.backbone.outputs(guidance)
            for part in with_class_token(
                decode_features(encode_features(one.features.cpu().numpy(), storage, [name]), storage),
                encode_cls(one.cls.cpu().numpy(), storage, [name])[CLS]
                if self.run.joins_tokens and one.cls is not None
                else None,
            )
        ]
        features = torch.from_numpy(np.concatenate(layers, -1)).to(self.backbone.device).float()
        found = [self._predict(features, guidance, size) for size in sizes or [self.run.readouts.output_size]]
        if self.task.picture != "boxes":
            return found
        return [boxes_in_image(boxes, self.region(image), image.shape[:2]) for boxes in found]

    def region(self, image: np.ndarray) -> Region:
        """The part of an (h, w, 3) image that is seen: the whole, or with features of cropped images the crop."""
        return seen_region(image.shape[:2], self._base_size, self.run.recipe.base_fit)

    @property
    def _base_size(self) -> Size:
        size = parse_base_size(self.run.recipe.base_size)
        return self.backbone.image_size if size == "native" else size

    @torch.no_grad()
    def _predict(self, features: torch.Tensor, guidance: torch.Tensor, size: Size) -> np.ndarray:
        try:
            output = torch.cat([head(features, size, guidance) for head in self.heads], 1)
            found: np.ndarray = self.task.prediction(output)[0].cpu().numpy()
        except RuntimeError as error:  # torch's own class for it is a GPU's alone
            if not (isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)):
                raise
            raise UsageError(
                f"size {size[0]}x{size[1]} needs more memory than there is: ask for a smaller one, or another --device"
            ) from None
        return found


def load_predictor(run: TrainedRun, *, weights: Path | None = None, device: str = "auto") -> Predictor:
    """The predictor of a run that :func:`find_run` found.

    ``weights`` is the backbone's checkpoint, where one was given for the extraction. Raises what
    :func:`_rebuild_backbone` raises, :class:`UsageError` for a device that cannot be used, and :class:`ResultsError`
    for a readout that needs base images where there are none.
    """
    place = choose_device(device)
    heads = run.readouts.build()
    if any(head.needs_guidance for head in heads) and run.recipe.base_size == "native":
        raise ResultsError(
            f"{run.result.run}: readout {run.result.readout} is conditioned on base images, and its features are of "
            "native images, which have none: extract with a base size and probe again"
        )
    return Predictor(
        run=run,
        task=get_task(run.result.task, run.readouts.readout.get("task_options")),
        backbone=_rebuild_backbone(run, weights=weights, device=place),
        heads=[head.to(place) for head in heads],
    )


def boxes_in_image(boxes: np.ndarray, seen: Region, image: Size) -> np.ndarray:
    """(n, 5) x, y, width, height and score, the first four as fractions of an image of (height, width) ``image``.

    ``boxes`` are the same as fractions of ``seen``; rows without a box (score 0) stay zeros.
    """
    if seen.covers(image):
        return boxes
    height, width = image
    sides = np.array([seen.width, seen.height, seen.width, seen.height])
    found = boxes.copy()
    found[:, :4] = (boxes[:, :4] * sides + (seen.left, seen.top, 0, 0)) / (width, height, width, height)
    found[boxes[:, 4] == 0] = 0
    return found


def _rebuild_backbone(run: TrainedRun, *, weights: Path | None, device: torch.device) -> Backbone:
    """The frozen backbone of ``run`` on ``device``, by the recipe of the features that the readout was trained on.

    ``weights`` is the checkpoint where one was given for the extraction. The batch-norm statistics of an untrained
    control are estimated again, from the base images in the run's home.

    Raises :class:`ResultsError` that says in what the backbone differs from the one of the recipe (another checkpoint
    above all), :class:`CacheMissError` where images for a control's statistics are missing, and what
    :func:`deapcache.backbones.build` raises.
    """
    recipe = run.recipe
    backbone = build_from_recipe(recipe, weights, run.layers)
    _require_same(run, backbone)
    backbone.to(device)
    if not backbone.needs_calibration:
        return backbone
    images = calibration_images(recipe, run.home)
    if images is None:
        raise CacheMissError(
            f"{run.result.run}: the features of {recipe.backbone} need {recipe.calibration}, and {run.home} does not "
            f"hold these as base images of {recipe.base_size}: "
            + (
                "features of native images cannot be made again without their dataset"
                if recipe.base_size == "native"
                else f"`deapcache extract --dataset {run.result.dataset} --backbone {recipe.backbone} --fit "
                f"{recipe.base_fit} --home {run.home}` makes them"
            )
        )
    made = calibrate(backbone, CachedImages(images), len(images), images.recipe["images"])
    if made != recipe.calibration:
        raise ResultsError(
            f"{run.result.run}: its features are of {backbone.name} calibrated as {recipe.calibration!r}, which "
            f"this deapcache does not do (it would: {made!r}): extract and probe again with this one"
        )
    return backbone


def _require_same(run: TrainedRun, backbone: Backbone) -> None:
    recipe, readout = run.recipe, run.readouts.readout
    width = backbone.dim * max(1, len(run.layers)) * (2 if run.joins_tokens else 1)
    volumes = {"grid": list(backbone.grid), "feature width": width}
    trained_on = {"grid": list(readout["grid"]), "feature width": readout["feature_dim"]}
    found = [*identity_mismatch(backbone, recipe), *differences(trained_on, volumes)]
    if not found:
        return
    listed = "; ".join(f"{one.field}: {one.left!r} there, {one.right!r} here" for one in found)
    if backbone.entry.is_plugin and any(one.field == "arguments" for one in found):
        advice = "its plugin has changed: give the file that they were extracted with (--plugin), or extract anew"
    elif any(one.field == "weights" for one in found):
        advice = "give the checkpoint that they were extracted with (--weights FILE)"
    else:
        advice = "use the deapcache that extracted them, or extract and probe again with this one"
    raise ResultsError(
        f"{run.result.run}: backbone {recipe.backbone} is not the one that its features are from ({listed}): {advice}"
    )


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """Which images to ask about, and what to keep."""

    images: Sequence[Path]
    out: Location
    sizes: Sequence[Size] = ()
    """(height, width) of the predictions; none: the size that the readout was trained at."""
    save_arrays: bool = False
    overwrite: bool = False
    """Whether files of earlier predictions may be replaced."""
    weights: Path | None = None
    """Checkpoint of the backbone, where one was given for the extraction."""
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What became of one image."""

    image: Path
    picture: str | None = None
    arrays: tuple[str, ...] = ()
    facts: str | None = None
    """What the arrays are."""
    picture_problem: str = ""
    """Why there is no picture, though there is a prediction; empty as a rule."""
    error: DeapcacheError | None = None
    """Why there is nothing."""

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "image": str(self.image),
            "picture": self.picture,
            "arrays": list(self.arrays),
            "facts": self.facts,
            "error": None if self.error is None else str(self.error),
        }


def predict_files(run: TrainedRun, request: PredictRequest) -> Iterator[Predicted]:
    """Ask the readout that :func:`find_run` found about image files, and yield each once its files are written.

    ``<image>-<task>.png`` shows the image and its prediction at each size. With ``save_arrays``
    ``<image>-<task>-<height>x<width>.npy`` is what ``Task.prediction`` gives, and ``<image>-<task>.json`` says what it
    is. An image that cannot be decoded does not stop the others. EXIF orientation is applied, whatever the dataset of
    the features did: photographs are to be seen upright.

    Raises, before anything is written, what :func:`load_predictor` raises, :class:`MissingDataError` for an image that
    is not there, :class:`UsageError` where a file would be overwritten, or two images would have the same files, and
    ``LocationError`` for names that are too long; later ``StorageFullError`` and ``ReadOnlyError``.
    """
    sizes = list(dict.fromkeys(request.sizes)) or [run.readouts.output_size]
    stems = {image: f"{image.stem}-{run.result.task}" for image in request.images}
    _check_files(request, stems, sizes)
    predictor = load_predictor(run, weights=request.weights, device=request.device)
    with sleep_if_cores_are_short():
        for image, stem in stems.items():
            try:
                yield _predict_file(predictor, request, image, stem, sizes)
            except _OF_ONE_IMAGE as error:
                yield Predicted(image=image, error=error)


def _array_keys(stem: str, sizes: Sequence[Size]) -> list[str]:
    return [f"{stem}-{height}x{width}.npy" for height, width in sizes]


def _check_files(request: PredictRequest, stems: Mapping[Path, str], sizes: Sequence[Size]) -> None:
    """Raise what can be known before anything is built."""
    out, owners = request.out, dict[str, Path]()
    for image in stems:
        with file_errors(image):
            is_there = image.is_file()
        if not is_there:
            what = "is a folder: give the files in it" if image.is_dir() else "is not there: nothing was predicted"
            raise MissingDataError(f"image {image} {what}")
    for image, stem in stems.items():
        if (other := owners.setdefault(stem, image)) != image:
            raise UsageError(f"{other} and {image} would both be written as {stem}.png: give each another --out")
    keys = []
    for stem in stems.values():
        keys += [f"{stem}.png", *([*_array_keys(stem, sizes), f"{stem}.json"] if request.save_arrays else [])]
    out.require_names(keys)
    images = {image.resolve() for image in stems}
    for key in keys:
        if isinstance(out, LocalLocation) and (out.path / key).resolve() in images:
            raise UsageError(f"{out}/{key} is one of the images: choose another --out")
        if not request.overwrite and out.exists(key):
            raise _is_there(out, key)
    out.require_writable()


def _is_there(out: Location, key: str) -> UsageError:
    return UsageError(f"{out}/{key} is there already: give --overwrite to replace it, or another --out")


def _predict_file(
    predictor: Predictor, request: PredictRequest, image: Path, stem: str, sizes: Sequence[Size]
) -> Predicted:
    """Predict one image and write its files, the picture last."""
    from deapcache.results.draw import draw_prediction

    out, result = request.out, predictor.run.result

    def publish(key: str, data: bytes) -> str:
        if not out.publish(key, data, replace=request.overwrite):
            raise _is_there(out, key)
        return f"{out}/{key}"

    pixels = decode_image(image)
    found = predictor(pixels, sizes, name=image.name)
    arrays: dict[str, np.ndarray] = {}
    facts: str | None = None
    if request.save_arrays:
        arrays = dict(zip(_array_keys(stem, sizes), found, strict=True))
        for key, values in arrays.items():
            data = io.BytesIO()
            np.save(data, values, allow_pickle=False)
            publish(key, data.getvalue())
        text = json.dumps(_facts(predictor, image, pixels, sizes, arrays), indent=1, ensure_ascii=False)
        facts = publish(f"{stem}.json", text.encode(errors="backslashreplace"))  # an image's name may be no UTF-8
    picture, problem = None, ""
    try:
        drawn = draw_prediction(result, image.name, pixels, found, sizes, seen=predictor.region(pixels))
    except Exception as error:  # whatever drawing meets: the arrays are there, and the other images
        problem = str(error) or type(error).__name__
        with suppress(OSError):
            out.delete(f"{stem}.png")  # of an earlier prediction, which --overwrite replaces
    else:
        picture = publish(f"{stem}.png", drawn)
    return Predicted(
        image=image,
        picture=picture,
        arrays=tuple(f"{out}/{key}" for key in arrays),
        facts=facts,
        picture_problem=problem,
    )


def _facts(
    predictor: Predictor, image: Path, pixels: np.ndarray, sizes: Sequence[Size], arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """What the arrays are, as JSON."""
    run, task = predictor.run, predictor.task
    described = task if task.meaning else get_annotation(task.picture)  # a plugin's label type says so itself
    return {
        "run": run.result.run,
        "task": run.result.task,
        "dataset": run.result.dataset,
        "backbone": run.result.backbone,
        "readout": run.result.readout,
        "image": str(image),
        "image_size": list(pixels.shape[:2]),
        "fit": run.recipe.base_fit,
        "region": asdict(predictor.region(pixels)),
        "colour": COLOUR,
        "trained_size": list(run.readouts.output_size),
        "values": described.meaning,
        "unit": described.unit,
        "classes": list(run.result.classes) if task.picture == "classes" else [],
        "arrays": [
            {"file": key, "size": list(size), "shape": list(values.shape), "dtype": str(values.dtype)}
            for size, (key, values) in zip(sizes, arrays.items(), strict=True)
        ],
    }
