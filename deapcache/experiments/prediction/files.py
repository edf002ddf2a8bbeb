"""Predictions for image files, as pictures and arrays in a folder."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deapcache.annotations import get_annotation
from deapcache.datasets import COLOUR, decode_image
from deapcache.datasets.io import file_errors
from deapcache.errors import DataError, DeapcacheError, FeatureError, MissingDataError, UsageError
from deapcache.experiments.prediction.predictor import Predictor, Size, load_predictor
from deapcache.experiments.prediction.runs import TrainedRun
from deapcache.locations import LocalLocation, Location
from deapcache.regions import Region
from deapcache.tasks import Task

_OF_ONE_IMAGE = (DataError, MissingDataError, FeatureError)
"""Errors that say nothing about the other images."""


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
    job = _Job(run, request)
    job.check()
    predictor = load_predictor(run, weights=request.weights, device=request.device)
    for image in job.images:
        try:
            yield job.do(predictor, image)
        except _OF_ONE_IMAGE as error:
            yield Predicted(image=image, error=error)


class _Names(NamedTuple):
    """The files of one image, inside the output folder."""

    picture: str
    arrays: tuple[str, ...] = ()
    """One a size; none where they are not kept."""
    facts: tuple[str, ...] = ()
    """One where arrays are kept."""


class _Job:
    """A request whose run is known, and so the names of its files."""

    def __init__(self, run: TrainedRun, request: PredictRequest) -> None:
        self._run = run
        self._request = request
        self._sizes = list(request.sizes) or [run.readouts.output_size]
        self._names = {image: self._names_for(image) for image in request.images}

    @property
    def images(self) -> list[Path]:
        """The images, each once."""
        return list(self._names)

    def check(self) -> None:
        """Raise what can be known before anything is built."""
        for image in self._names:
            with file_errors(image):
                is_there = image.is_file()
            if not is_there:
                what = "is a folder: give the files in it" if image.is_dir() else "is not there: nothing was predicted"
                raise MissingDataError(f"image {image} {what}")
        owners: dict[str, Path] = {}
        for image, names in self._names.items():
            other = owners.setdefault(names.picture, image)
            if other != image:
                raise UsageError(
                    f"{other} and {image} would both be written as {names.picture}: give each another --out"
                )
        keys = [key for names in self._names.values() for key in (names.picture, *names.arrays, *names.facts)]
        self._request.out.require_names(keys)
        for key in keys:
            self._check_free(key)
        self._request.out.require_writable()

    def do(self, predictor: Predictor, image: Path) -> Predicted:
        """Predict one image and write its files, the picture last."""
        from deapcache.results.draw import draw_prediction

        names = self._names[image]
        pixels = decode_image(image)
        found = predictor(pixels, self._sizes, name=image.name)
        seen = predictor.region(pixels)
        if names.arrays:
            for key, values in zip(names.arrays, found, strict=True):
                self._publish(key, _npy(values))
        for key in names.facts:
            facts = self._facts(image, predictor.task, pixels, found, seen)
            text = json.dumps(facts, indent=1, ensure_ascii=False)
            self._publish(key, text.encode(errors="backslashreplace"))  # an image's name may be no UTF-8
        problem = ""
        try:
            picture = draw_prediction(self._run.result, image.name, pixels, found, self._sizes, seen=seen)
        except Exception as error:  # whatever drawing meets: the arrays are there, and the other images
            problem = str(error) or type(error).__name__
            with suppress(OSError):
                self._request.out.delete(names.picture)  # of an earlier prediction, which --overwrite replaces
        else:
            self._publish(names.picture, picture)
        out = self._request.out
        return Predicted(
            image=image,
            picture=None if problem else f"{out}/{names.picture}",
            arrays=tuple(f"{out}/{key}" for key in names.arrays),
            facts=next((f"{out}/{key}" for key in names.facts), None),
            picture_problem=problem,
        )

    def _names_for(self, image: Path) -> _Names:
        stem = f"{image.stem}-{self._run.result.task}"
        if not self._request.save_arrays:
            return _Names(f"{stem}.png")
        arrays = tuple(f"{stem}-{height}x{width}.npy" for height, width in self._sizes)
        return _Names(f"{stem}.png", arrays, (f"{stem}.json",))

    def _check_free(self, key: str) -> None:
        out = self._request.out
        if isinstance(out, LocalLocation) and (out.path / key).resolve() in {one.resolve() for one in self._names}:
            raise UsageError(f"{out}/{key} is one of the images: choose another --out")
        if not self._request.overwrite and out.exists(key):
            raise _taken(out, key)

    def _publish(self, key: str, data: bytes) -> None:
        out, replace = self._request.out, self._request.overwrite
        if not out.publish(key, data, replace=replace):
            raise _taken(out, key)

    def _facts(
        self, image: Path, task: Task, pixels: np.ndarray, found: Sequence[np.ndarray], seen: Region
    ) -> dict[str, Any]:
        result = self._run.result
        described = task if task.meaning else get_annotation(task.picture)  # a plugin's label type says so itself
        files = zip(self._names[image].arrays, self._sizes, found, strict=True)
        return {
            "run": result.run,
            "task": result.task,
            "dataset": result.dataset,
            "backbone": result.backbone,
            "readout": result.readout,
            "image": str(image),
            "image_size": list(pixels.shape[:2]),
            "fit": self._run.recipe.base_fit,
            "region": asdict(seen),
            "colour": COLOUR,
            "trained_size": list(self._run.readouts.output_size),
            "values": described.meaning,
            "unit": described.unit,
            "classes": list(result.classes) if task.picture == "classes" else [],
            "arrays": [
                {"file": key, "size": list(size), "shape": list(values.shape), "dtype": str(values.dtype)}
                for key, size, values in files
            ],
        }


def _npy(values: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, values, allow_pickle=False)
    return data.getvalue()


def _taken(out: Location, key: str) -> UsageError:
    return UsageError(f"{out}/{key} is there already: give --overwrite to replace it, or another --out")
