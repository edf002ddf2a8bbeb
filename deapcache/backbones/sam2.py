"""SAM 2's image encoder: the Hiera trunk and the neck that brings its last two stages to stride 16.

The reference is ``ImageEncoder`` with ``FpnNeck`` (top-down levels 2 and 3, sum, nearest) of the official SAM 2
repository, whose coarsest level is dropped (``scalp: 1``).
"""

from __future__ import annotations

import timm
from torch import Tensor, nn
from torch.nn import functional as F

from deapcache.backbones.checkpoints import State, load_strictly
from deapcache.backbones.entries import BackboneEntry, Size
from deapcache.backbones.loaded import Loaded

STAGE_WIDTHS = (896, 448, 224, 112)
"""Channels of the trunk's stages, coarsest first, the order of the neck's convolutions."""

NECK_WIDTH = 256


class ImageEncoder(nn.Module):
    """(B, 3, h, w) normalised images to the (B, 256, h/16, w/16) image embedding.

    All four convolutions of the neck are there, as in the official checkpoint; the two finest serve other outputs.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.convs = nn.ModuleList(nn.Conv2d(width, NECK_WIDTH, kernel_size=1) for width in STAGE_WIDTHS)

    def forward(self, images: Tensor) -> Tensor:
        third, fourth = self.trunk.forward_intermediates(  # type: ignore[operator]
            images, indices=[2, 3], norm=False, output_fmt="NCHW", intermediates_only=True
        )
        upsampled = F.interpolate(self.convs[0](fourth).float(), scale_factor=2.0, mode="nearest")
        return self.convs[1](third) + upsampled


def load(entry: BackboneEntry, checkpoint: State | None, image_size: Size | None) -> Loaded:
    """Build trunk and neck; the trunk takes any image size that is a multiple of 32."""
    trunk = timm.create_model(entry.architecture.removeprefix("timm:"), num_classes=0, **entry.arguments)
    trunk.head = nn.Identity()  # timm's classification head; SAM 2 has none
    encoder = ImageEncoder(trunk)
    if checkpoint is not None:
        load_strictly(encoder, from_official(checkpoint), entry)
    return Loaded(encoder, encoder, dict(entry.arguments))


def from_official(checkpoint: State) -> State:
    """The image encoder's part of an official SAM 2 checkpoint under our keys; other checkpoints as they are."""
    inside = {key: tensor for key, tensor in checkpoint.items() if key.startswith("image_encoder.")}
    return {_our_key(key): tensor for key, tensor in inside.items()} or checkpoint


def _our_key(key: str) -> str:
    key = key.removeprefix("image_encoder.")
    if key.startswith("neck.convs."):
        return key.removeprefix("neck.").replace(".conv.", ".")
    return key.replace("mlp.layers.0.", "mlp.fc1.").replace("mlp.layers.1.", "mlp.fc2.")
