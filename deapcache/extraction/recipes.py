"""The recipes of what stage 1 writes, and the arrays they are kept in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from deapcache.annotations import ANNOTATIONS, BOXES, OUTSIDE, get_annotation
from deapcache.backbones import BackboneIdentity
from deapcache.cache import ORIGINAL, ArraySpec
from deapcache.datasets import INTERPOLATION, Dataset, DigestIndex
from deapcache.errors import UsageError
from deapcache.extraction.outline import Outline
from deapcache.recipe import FeatureRecipe, ImageRecipe, TargetRecipe
from deapcache.regions import CROP

_NAMED = 100
"""Images left out that a recipe names; ``--on-error skip`` lists them all."""

BaseSize = tuple[int, int] | Literal["native"]


def base_size_name(size: BaseSize) -> str:
    """``224x224`` (height × width), or ``native``."""
    return "native" if size == "native" else f"{size[0]}x{size[1]}"


def parse_base_size(text: str) -> BaseSize:
    """``224``, ``216x288`` or ``native``; raises :class:`UsageError` for anything else."""
    if text == "native":
        return "native"
    sides = text.lower().split("x")
    if len(sides) <= 2 and all(side.isdecimal() and int(side) > 0 for side in sides):
        return int(sides[0]), int(sides[-1])
    raise UsageError(f"base size {text!r}: expected a side (224), HEIGHTxWIDTH (216x288) or native")


def image_recipe(
    dataset: Dataset, size: tuple[int, int], images: str, *, fit: str, omitted: Mapping[str, Any] | None = None
) -> ImageRecipe:
    """The recipe of base images of ``size`` of the image set with digest ``images``."""
    return ImageRecipe(
        size=size,
        fit=fit,
        interpolation=INTERPOLATION,
        colour=dataset.colour,
        images=images,
        omitted=omitted,
    )


def omitted_from(dataset: Dataset, split: str) -> dict[str, Any] | None:
    """What recipes say of the images that were left out of a split; ``None`` where none was."""
    left_out = dataset.omitted.get(split)
    return {"images": len(left_out), "ids": list(left_out)[:_NAMED]} if left_out else None


def target_recipe(
    dataset: Dataset,
    split: str,
    annotation: str,
    size: tuple[int, int],
    images: str,
    *,
    fit: str,
    index: DigestIndex | None = None,
) -> TargetRecipe:
    """The recipe of one annotation kind at ``size``; ``index`` remembers digests of label files.

    Boxes stay in pixels of the original image whatever the size; theirs says which other targets they go with, and
    under ``crop`` which region they are cut to. That of a plugin's label type has the digest of the plugin's file.
    """
    options = dataset.target_options(annotation)
    if annotation == BOXES and fit == CROP:
        options = {**options, "outside": OUTSIDE}
    if source := ANNOTATIONS.source(annotation):
        options = {**options, "label_type": source}
    return TargetRecipe(
        annotation=annotation,
        size=size,
        fit=fit,
        options=options,
        classes=dataset.classes if annotation == "classes" else (),
        images=images,
        annotations=dataset.annotation_digest(split, annotation, index=index),
        omitted=omitted_from(dataset, split),
    )


def feature_recipe(
    identity: BackboneIdentity,
    *,
    calibration: str,
    base_size: BaseSize,
    base_fit: str,
    colour: str,
    precision: str,
    storage: str,
    images: str,
    view: str = ORIGINAL,
    omitted: Mapping[str, Any] | None = None,
) -> FeatureRecipe:
    """The recipe of feature volumes: the backbone's identity and everything around it."""
    return FeatureRecipe(
        **{f.name: getattr(identity, f.name) for f in dataclasses.fields(identity)},
        calibration=calibration,
        base_size=base_size_name(base_size),
        base_fit=base_fit,
        base_interpolation=INTERPOLATION,
        colour=colour,
        precision=precision,
        tf32=False,
        storage=storage,
        images=images,
        view=view,
        omitted=omitted,
    )


def image_array(size: tuple[int, int]) -> ArraySpec:
    """Base images: (h, w, 3) uint8 RGB each."""
    return ArraySpec(name="images", dtype="uint8", item_shape=(*size, 3), dimensions=("row", "column", "channel"))


def target_array(dataset: Dataset | Outline, split: str, annotation: str, size: tuple[int, int]) -> ArraySpec:
    """The array of a label type's targets: see ``deapcache.annotations.ANNOTATIONS``.

    A table has zeros after an image's last box.
    """
    kind = get_annotation(annotation)
    shape = kind.item_shape(size, dataset.box_rows(split) if kind.columns else 0)
    return ArraySpec(name="targets", dtype=kind.dtype, item_shape=shape, dimensions=kind.dimensions)
