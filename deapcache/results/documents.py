"""What the JSON documents of results hold, by type: pydantic checks each of them before anything looks into it.

A document is kept as it is, also what is in it beside: the types say what may be relied upon.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field, GetPydanticSchema
from typing_extensions import TypedDict


def _as(kind: Any) -> GetPydanticSchema:
    """For pydantic a field is of this kind, whatever its annotation tells mypy."""
    return GetPydanticSchema(lambda _, handler: handler.generate_schema(kind))


def _is_moment(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _has_features(caches: Mapping[str, Any]) -> Mapping[str, Any]:
    if not {"train", "val"} <= caches.keys():
        raise ValueError("it does not say which features it is from")
    return caches


Side = Annotated[int, Field(ge=1, le=65_536)]
"""Of an image or a grid, or channels of features."""
Width = Annotated[int, Field(ge=1, le=4096)]
"""Channels of a layer whose weights are the square of that."""
Date = Annotated[str, AfterValidator(_is_moment)]
"""ISO 8601."""


class MetricFacts(TypedDict):
    """How a score is shown and ranked."""

    label: str
    unit: str
    higher_is_better: bool


class AboutBackbone(TypedDict, total=False):
    """What was known of a backbone."""

    category: str
    parameters: int
    training_data: str


_Rate = Annotated[float, Field(gt=0)]


_Share = Annotated[float, Field(gt=0, le=1)]


class _Optimiser(TypedDict):
    lr: _Rate | Literal["selected", "none"]


class _Candidate(TypedDict):
    lr: _Rate
    score: float | None


class SelectionFacts(TypedDict, total=False):
    """How a learning rate and the share of the steps were chosen."""

    lr: _Rate
    metric: str
    images: int
    candidates: list[_Candidate]
    range: float | None
    fraction: Annotated[float, Field(gt=0, le=1)]
    longer: dict[str, float | None]


class _Protocol(TypedDict):
    task: str
    task_options: dict[str, Any]
    dataset: str
    output_size: tuple[Side, Side]
    readout: str
    readout_options: dict[str, Any]
    optimiser: _Optimiser
    iterations: int
    batch_size: int
    order_seed: int
    train_limit: int | None
    val_limit: int | None
    views: NotRequired[list[str]]
    name: NotRequired[Annotated[str, Field(max_length=300)]]
    name_digest: NotRequired[str]
    standardise: NotRequired[Literal["cell", "channel"]]
    selection: NotRequired[dict[str, Any] | None]
    score_size: NotRequired[Literal["output", "native"]]
    train_subset: NotRequired[int | None]


class _Omitted(TypedDict):
    images: int
    ids: list[str]


class _Recipe(TypedDict, total=False):
    backbone: str
    layer: Annotated[str, Field(max_length=100)]
    tokens: str
    final_norm: bool
    base_fit: str
    omitted: _Omitted | None


class _Cache(TypedDict):
    path: str
    digest: str
    recipe: _Recipe


class _Build(TypedDict):
    name: str
    options: dict[str, Any]
    feature_dim: Side
    grid: tuple[Side, Side]
    cnn_width: Width | None
    classes: NotRequired[list[str]]
    task_options: NotRequired[dict[str, str]]
    standardise: NotRequired[Literal["cell", "channel"]]
    covered: NotRequired[tuple[_Share, _Share]]
    parts: NotRequired[list[Side]]


class _Readout(_Build):
    heads: Annotated[list[Width], Field(min_length=1, max_length=16)]
    output_size: tuple[Side, Side]


class ReadoutDocument(TypedDict):
    """What a readout's file says beside its weights."""

    run: str
    backbone: str
    task: str
    readout: _Readout


class UseDocument(TypedDict):
    """What of a result of any version says which caches it used, and when."""

    date: Date
    caches: dict[str, _Used]


class _Used(TypedDict):
    digest: str


_Value = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""``null`` where it is not defined."""
_Ends = tuple[_Value, _Value]


class IntervalsDocument(TypedDict):
    """The intervals of one row, by metric: low and high; and value, interval and p of its differences."""

    intervals: dict[str, _Ends]
    differences: dict[str, tuple[_Value, _Ends, _Value]]


Numbers = Annotated[Mapping[str, float], _as(dict[str, float | None])]
Number = Annotated[float, _as(float | None)]
"""``null`` where it is not finite."""
Metrics = Annotated[Mapping[str, Mapping[str, Any]], _as(dict[str, MetricFacts])]
Caches = Annotated[Mapping[str, Mapping[str, Any]], _as(dict[str, _Cache]), AfterValidator(_has_features)]
Protocol = Annotated[Mapping[str, Any], _as(_Protocol)]
Build = Annotated[Mapping[str, Any], _as(_Build)]
Selection = Annotated[Mapping[str, Any], _as(SelectionFacts)]
About = Annotated[Mapping[str, Any], _as(AboutBackbone)]
