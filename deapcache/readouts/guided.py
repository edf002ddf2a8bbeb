"""Readouts that upsample features conditional on the image, by a published and frozen upsampler, then map linearly.

Shape legend: B batch, H and W feature grid, D feature width, h and w pixels of an image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from deapcache.errors import UsageError
from deapcache.readouts.config import Readout, ReadoutConfig

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What both published upsamplers take images normalised by, whatever the backbone."""


class GuidedReadout(Readout):
    """A linear map D' → D → D_out, to be applied to upsampled features.

    Two maps without anything in between are one of rank D: it is as large as the readouts that it is compared to.
    """

    needs_guidance = True

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__()
        self.project = nn.Linear(config.feature_dim, config.code_dim)
        self.output = nn.Linear(config.code_dim, config.out_channels)

    def set_output_bias(self, values: Tensor) -> None:
        """Start each channel's output at ``values`` (D_out,), in the last bias; the one before becomes 0."""
        with torch.no_grad():
            self.project.bias.zero_()
            self.output.bias.copy_(values)


def normalised_images(guidance: Tensor | None, batch: int, readout: str) -> Tensor:
    """(B, 3, h, w) float32, as the upsamplers take them, from base images (B, h, w, 3) uint8.

    Raises :class:`UsageError` where they are not given, or are not one an image.
    """
    if guidance is None:
        raise UsageError(
            f"readout {readout} is conditioned on the image: give the base images (B, h, w, 3) uint8 as guidance"
        )
    if guidance.dtype != torch.uint8 or guidance.ndim != 4 or guidance.shape[0] != batch or guidance.shape[3] != 3:
        raise UsageError(
            f"readout {readout}: guidance is {tuple(guidance.shape)} {guidance.dtype}, "
            f"expected base images ({batch}, h, w, 3) torch.uint8"
        )
    mean, std = (guidance.new_tensor(values, dtype=torch.float32) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((guidance / 255 - mean) / std).permute(0, 3, 1, 2)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """``sha256:…`` over name, dtype, shape and bytes of the tensors, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{values.dtype}\0{tuple(values.shape)}\0".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
