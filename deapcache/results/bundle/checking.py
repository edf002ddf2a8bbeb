"""Whether a run's files are what they say: data alone is read, nothing in them is executed or unpickled."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from deapcache.errors import BundleError, DeapcacheError
from deapcache.recipe import FeatureRecipe, Protocol, TargetRecipe
from deapcache.results.bundle.contents import PICTURE, READOUT, RESULT, STATISTICS
from deapcache.results.documents import AboutBackbone, MetricFacts
from deapcache.results.files import checked, parse_arrays
from deapcache.results.intervals import same_score, task_of
from deapcache.results.record import (
    RESULT_MODEL,
    SCHEMA_VERSION,
    Result,
    Statistics,
    inner_problem,
    known_metrics,
    parse_statistics,
    run_id,
)
from deapcache.untrusted import require_printable

_PICTURE_SIDE = 10_000
"""Pixels that a picture may be wide or high."""


def check_run(run: str, files: Mapping[str, bytes]) -> Result:
    """The result of ``run`` whose files these are, by what they are.

    Its name, its protocol's digest and those of its caches are computed again, and so are its scores, from the
    statistics of each image. Raises :class:`BundleError` that says what does not fit.
    """
    try:
        result = _result(files[RESULT])
        _check_identity(run, result)
        _check_scores(result, _statistics(result, files[STATISTICS]))
        _check_readout(result, files[READOUT])
        if PICTURE in files:
            _check_picture(files[PICTURE])
    except DeapcacheError as error:
        raise BundleError(f"run {run}: {error}") from None
    except Exception as error:  # the files are anybody's: what is expected to be a table may be a number
        raise BundleError(f"run {run}: its files are not deapcache's: {type(error).__name__}: {error}") from None
    return result


def _result(data: bytes) -> Result:
    try:
        document = checked(data, RESULT_MODEL, schema=SCHEMA_VERSION)
        require_printable([document])
    except ValueError as error:
        raise BundleError(f"its result is not one of deapcache: {error}") from None
    result = Result.from_json(document)
    unknown = document.keys() - result.to_json().keys() | result.about.keys() - AboutBackbone.__annotations__.keys()
    unknown |= {name for facts in result.metrics.values() for name in facts.keys() - MetricFacts.__annotations__.keys()}
    _require(not unknown, f"its result has fields that this deapcache does not know: {', '.join(sorted(unknown))}")
    problem = inner_problem(result)
    _require(not problem, problem)
    return result


def _check_identity(run: str, result: Result) -> None:
    protocol = Protocol.from_json(result.protocol)
    named = (result.task, result.dataset, result.readout)
    _require((protocol.task, protocol.dataset, protocol.readout) == named, "its protocol is of another task or readout")
    _require(protocol.digest == result.protocol_digest, "its protocol does not have the digest that it says")
    for name, cache in result.caches.items():
        recipe = (TargetRecipe if name.endswith("targets") else FeatureRecipe).from_json(cache["recipe"])
        _require(recipe.digest == cache["digest"], f"the recipe of its {name} does not have the digest that it says")
        same = not isinstance(recipe, FeatureRecipe) or recipe.backbone == result.backbone
        _require(same, f"its {name} features are of another backbone")
    _require({"train", "val"} <= set(result.caches), "it does not say which features it is from")
    _require(result.run == run == run_id(result.to_json()), "its name is not the one that its contents have")


def _statistics(result: Result, data: bytes) -> Statistics:
    arrays = _parsed("statistics", lambda: parse_arrays(data)[0])
    statistics = _parsed("statistics", lambda: parse_statistics(arrays))
    lengths = {len(array) if array.ndim else 0 for array in (*statistics.run.values(), *statistics.prior.values())}
    _require(
        lengths == {result.val_images} and len(statistics.image_ids) == result.val_images,
        f"its statistics are not of the {result.val_images} images that it was scored on",
    )
    return statistics


def _check_scores(result: Result, statistics: Statistics) -> None:
    task = task_of(result)  # of a task that is not known here: the error names it
    _require(
        result.main_metric == task.main_metric and set(result.metrics) == set(task.metrics),
        f"its metrics are not those of task {result.task}, whose main metric is {task.main_metric}",
    )
    for name, facts in known_metrics(result.task).items():
        better = "higher" if facts["higher_is_better"] else "lower"
        same = result.metrics[name]["higher_is_better"] is facts["higher_is_better"]
        _require(same, f"it takes the other {name} for the better one: a {better} one is")
    _require(math.isfinite(result.scores.get(result.main_metric, math.nan)), f"its {result.main_metric} is no number")
    for kept, arrays in ((result.scores, statistics.run), (result.prior, statistics.prior)):
        found = _parsed("statistics", lambda arrays=arrays: task.scores(dict(arrays)))  # type: ignore[misc]
        _require(set(kept) == set(found), "its statistics give other scores than it has")
        for name in kept:
            told = f"its {name} is {kept[name]:.6f}, its statistics give {found[name]:.6f}"
            _require(same_score(kept[name], found[name]), told)


def _check_readout(result: Result, data: bytes) -> None:
    weights, facts = _parsed("readout", lambda: parse_arrays(data))
    _require(facts.get("run") == result.run, "its readout is of another run")
    _require(facts.get("readout") == dict(result.build), "its readout is built otherwise than its result says")
    _require(bool(weights), "its readout has no weights")
    finite = all(np.isfinite(array).all() for array in weights.values() if array.dtype.kind == "f")
    _require(finite, "its readout has weights that are no numbers")


def _check_picture(data: bytes) -> None:
    def opened() -> tuple[int, int]:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            picture.verify()
            return picture.size

    size = _parsed("picture", opened)
    _require(
        max(size) <= _PICTURE_SIDE, f"its picture is {size[0]}x{size[1]} pixels, at most {_PICTURE_SIDE} are taken"
    )


def _parsed(what: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except DeapcacheError:
        raise
    except Exception as error:  # made by anybody: arrays of any shape, and numpy and Pillow raise what they like
        raise BundleError(f"its {what} cannot be read: {type(error).__name__}: {error}") from None


def _require(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise BundleError(otherwise)
