"""A backbone again, by the recipe of features that it made, and the base images that these are from."""

from __future__ import annotations

from pathlib import Path

import torch

from deapcache.backbones import DEFAULT_LAYERS, LAST, NO_TOKENS, Backbone, LayerSelection, build, describe
from deapcache.cache import Cache, list_caches
from deapcache.errors import CacheMissError, WeightsError
from deapcache.extraction.calibrating import calibrate
from deapcache.extraction.recipes import feature_recipe, parse_base_size
from deapcache.extraction.sources import CachedImages
from deapcache.locations import Location
from deapcache.recipe import Difference, FeatureRecipe, differences


def rebuild_backbone(recipe: FeatureRecipe, home: Location, *, weights: Path | None, device: torch.device) -> Backbone:
    """The frozen backbone that made features of ``recipe``, on ``device``.

    ``weights`` is the checkpoint where one was given for the extraction. The batch-norm statistics of an untrained
    control are estimated again, from base images in ``home``.

    Raises :class:`WeightsError` that says in what the backbone differs from the recipe's, :class:`CacheMissError` where
    images for a control's statistics are missing, and what :func:`deapcache.backbones.build` raises.
    """
    backbone = build_again(recipe, weights)
    if found := unlike(backbone, recipe):
        listed = "; ".join(f"{one.field}: {one.left!r} there, {one.right!r} here" for one in found)
        raise WeightsError(
            f"backbone {recipe.backbone} is not the one that the features are from ({listed}): give the checkpoint "
            "that they were extracted with (--weights FILE), or use the deapcache that extracted them"
        )
    backbone.to(device)
    if backbone.needs_calibration:
        _calibrate(backbone, recipe, home)
    return backbone


def build_again(recipe: FeatureRecipe, weights: Path | None) -> Backbone:
    """The backbone of ``recipe`` with its layer and tokens, on the CPU and not calibrated; see :func:`unlike`."""
    entry = describe(recipe.backbone)
    layer = LAST if recipe.layer == entry.layer or not recipe.layer.isdecimal() else recipe.layer
    own = (layer, recipe.tokens, recipe.final_norm) == (LAST, NO_TOKENS, entry.final_norm)
    chosen = LayerSelection(layers=(layer,), final_norm=recipe.final_norm, tokens=recipe.tokens)
    selection = DEFAULT_LAYERS if own else chosen
    size, precision = recipe.image_size, recipe.precision
    return build(recipe.backbone, weights=weights, image_size=size, precision=precision, selection=selection)


def unlike(backbone: Backbone, recipe: FeatureRecipe) -> list[Difference]:
    """The recipe fields in which features of ``backbone`` would differ from ``recipe``: there, and here."""
    here = feature_recipe(
        backbone.identity,
        calibration=recipe.calibration,
        base_size=parse_base_size(recipe.base_size),
        base_fit=recipe.base_fit,
        colour=recipe.colour,
        precision=backbone.precision,
        storage=recipe.storage,
        images=recipe.images,
        view=recipe.view,
        omitted=recipe.omitted,
    )
    return differences(recipe.to_json(), here.to_json())


def base_images(recipe: FeatureRecipe, home: Location) -> Cache:
    """The base images that features of ``recipe`` are from; raises :class:`CacheMissError`."""
    size = parse_base_size(recipe.base_size)
    wanted = {
        "images": recipe.images,
        "size": list(size),
        "fit": recipe.base_fit,
        "interpolation": recipe.base_interpolation,
        "colour": recipe.colour,
    }
    for entry in list_caches(home, "images"):
        if all(entry.fields[field] == value for field, value in wanted.items()):
            return entry.open()
    reason = "they are of native images, which are not cached" if size == "native" else f"of {recipe.base_size}"
    raise CacheMissError(f"{home} does not hold the base images of these features ({reason})")


def calibration_images(recipe: FeatureRecipe, home: Location) -> Cache | None:
    """The base images that a control's batch-norm statistics are from, where ``home`` holds them."""
    brought_to = parse_base_size(recipe.base_size), recipe.base_fit
    for entry in list_caches(home, "images"):
        found = tuple(entry.recipe["size"]), entry.recipe["fit"]
        if entry.recipe["images"] in recipe.calibration and found == brought_to:
            return entry.open()
    return None


def _calibrate(backbone: Backbone, recipe: FeatureRecipe, home: Location) -> None:
    images = calibration_images(recipe, home)
    if images is None:
        raise CacheMissError(
            f"the features of {recipe.backbone} need {recipe.calibration}, and {home} does not hold these as base "
            f"images of {recipe.base_size}"
        )
    made = calibrate(backbone, CachedImages(images), len(images), images.recipe["images"])
    if made != recipe.calibration:
        raise WeightsError(
            f"the features are of {backbone.name} calibrated as {recipe.calibration!r}, which this deapcache does not "
            f"do (it would: {made!r}): use the deapcache that extracted them"
        )
