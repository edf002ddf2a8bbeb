"""The backbone of a run, built so that its features are those that the readout was trained on."""

from __future__ import annotations

from pathlib import Path

import torch

from deapcache.backbones import Backbone
from deapcache.cache import Cache
from deapcache.errors import CacheMissError, ResultsError
from deapcache.experiments.prediction.runs import TrainedRun
from deapcache.extraction import CachedImages, build_from_recipe, calibrate, calibration_images, identity_mismatch
from deapcache.recipe import differences


def rebuild_backbone(run: TrainedRun, *, weights: Path | None, device: torch.device) -> Backbone:
    """The frozen backbone of ``run`` on ``device``, by the recipe of the features that the readout was trained on.

    ``weights`` is the checkpoint where one was given for the extraction. The batch-norm statistics of an untrained
    control are estimated again, from the base images in the run's home.

    Raises :class:`ResultsError` that says in what the backbone differs from the one of the recipe (another checkpoint
    above all), :class:`CacheMissError` where images for a control's statistics are missing, and what
    :func:`deapcache.backbones.build` raises.
    """
    recipe = run.recipe
    backbone = build_from_recipe(recipe, weights)
    _require_same(run, backbone)
    backbone.to(device)
    if backbone.needs_calibration:
        _calibrate(run, backbone)
    return backbone


def _require_same(run: TrainedRun, backbone: Backbone) -> None:
    recipe, readout = run.recipe, run.readouts.readout
    volumes = {"grid": list(backbone.grid), "feature width": backbone.dim}
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


def _calibrate(run: TrainedRun, backbone: Backbone) -> None:
    images = _calibration_images(run)
    made = calibrate(backbone, CachedImages(images), len(images), images.recipe["images"])
    if made != run.recipe.calibration:
        raise ResultsError(
            f"{run.result.run}: its features are of {backbone.name} calibrated as {run.recipe.calibration!r}, which "
            f"this deapcache does not do (it would: {made!r}): extract and probe again with this one"
        )


def _calibration_images(run: TrainedRun) -> Cache:
    """The base images that the recipe's batch-norm statistics are from."""
    recipe = run.recipe
    if found := calibration_images(recipe, run.home):
        return found
    dataset = run.result.dataset
    raise CacheMissError(
        f"{run.result.run}: the features of {recipe.backbone} need {recipe.calibration}, and {run.home} does not hold "
        f"these as base images of {recipe.base_size}: "
        + (
            "features of native images cannot be made again without their dataset"
            if recipe.base_size == "native"
            else f"`deapcache extract --dataset {dataset} --backbone {recipe.backbone} --fit {recipe.base_fit} "
            f"--home {run.home}` makes them"
        )
    )
