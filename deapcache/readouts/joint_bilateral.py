"""FeatUp's stack of learned joint bilateral upsamplers, in plain PyTorch.

Fu et al., "FeatUp: a model-agnostic framework for features at any resolution", ICLR 2024, section 3.1. The arithmetic
and the names in the state are those of the authors' published code and checkpoints, whose CUDA kernel
:func:`filter_locally` stands for. Nothing in it is trained here.

Shape legend: B batch, C channels, K width of a key, P = 49 taps of a 7 × 7 window row by row, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

RADIUS = 3
"""Of the window that a pixel is filtered from."""

DIAMETER = 2 * RADIUS + 1

FACTOR = 16
"""How much finer the output of the stack is than the features: four times two."""

CPU_STRIP = 8_192
"""Pixels whose filters a CPU makes together: their keys are 1 MB, and stay in its cache for the 49 taps."""

DEVICE_STRIP = 4_000_000
"""The same for an accelerator, which wants much work at once."""

_KEY_WIDTH = 32
_TEMPERATURE_RANGE = (1e-4, 1e4)
_LEAST_SUM = 1e-7
_CORRECTION = 0.1
"""Share of what the learned correction adds, to each kernel and to the output."""


class JointBilateralUpsampler(nn.Module):
    """Twice the resolution: bicubic upsampling, then a filter for each pixel that is computed from the image alone."""

    def __init__(self) -> None:
        super().__init__()
        taps = DIAMETER**2
        self.range_temp = nn.Parameter(torch.tensor(0.0))
        self.sigma_spatial = nn.Parameter(torch.tensor(1.0))
        self.range_proj = _two_layers(3, _KEY_WIDTH)
        self.fixup_proj = _two_layers(3 + taps, taps)

    def forward(self, source_BCHW: Tensor, image_B3hw: Tensor) -> Tensor:
        """(B, C, h, w) from (B, C, H, W) and an image of the wanted size; linear in the source, channel by channel."""
        coarse = F.interpolate(source_BCHW, image_B3hw.shape[2:], mode="bicubic", align_corners=False)
        return filter_locally(_padded(coarse), self.kernels(image_B3hw))

    def kernels(self, image_B3hw: Tensor) -> Tensor:
        """(B, P, h, w): the filter of each pixel, from similarity and distance, with a learned correction."""
        B, _, h, w = image_B3hw.shape
        keys_BKhw = self.range_proj(image_B3hw)
        padded = _padded(keys_BKhw)
        rows = max(1, (CPU_STRIP if image_B3hw.device.type == "cpu" else DEVICE_STRIP) // (B * w))
        strips = zip(keys_BKhw.split(rows, 2), image_B3hw.split(rows, 2), range(0, h, rows), strict=True)
        made = [self._kernels(padded[:, :, top:], keys, image) for keys, image, top in strips]
        return torch.cat(made, 2)

    def _kernels(self, padded_BKhw: Tensor, keys_BKhw: Tensor, image_B3hw: Tensor) -> Tensor:
        """Of some rows: keys from three rows above them on and columns on both sides, keys, and image of the rows."""
        # Similarity is the softmax over the window of the products of its keys with the pixel's own.
        windows = _windows(padded_BKhw[:, :, : keys_BKhw.shape[2] + 2 * RADIUS])
        products = torch.stack([(shifted * keys_BKhw).sum(1) for shifted in windows], 1)
        similarity = (self.range_temp.exp().clamp(*_TEMPERATURE_RANGE) * products).softmax(1)
        joint = similarity * self._closeness()
        joint = joint / joint.sum(1, keepdim=True).clamp(min=_LEAST_SUM)
        return joint + _CORRECTION * self.fixup_proj(torch.cat([joint, image_B3hw], 1))

    def _closeness(self) -> Tensor:
        """(1, P, 1, 1): a Gaussian of the distance within the window, whose corners are at (±1, ±1)."""
        sigma = self.sigma_spatial
        squares = torch.linspace(-1, 1, DIAMETER, dtype=sigma.dtype, device=sigma.device).square()
        distances = (squares[:, None] + squares).reshape(1, -1, 1, 1)
        return torch.exp(-distances / (2 * sigma**2))


class JointBilateralStack(nn.Module):
    """Layer norm of the features, four upsamplers in a row to 16 times the resolution, a last map of the channels.

    Frozen. What comes between norm and last map is linear in the features and the same for all channels, so a caller
    who wants a projection of the output can project the input: see :class:`deapcache.readouts.featup.FeatUp`.
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(feature_dim)
        self.up1 = JointBilateralUpsampler()
        self.up2 = JointBilateralUpsampler()
        self.up3 = JointBilateralUpsampler()
        self.up4 = JointBilateralUpsampler()
        # The published module has dropout in front of it, which does nothing at inference but count in the names.
        self.fixup_proj = nn.Sequential(nn.Identity(), nn.Conv2d(feature_dim, feature_dim, 1))
        self.requires_grad_(False)

    def upsample(self, source_BCHW: Tensor, image_B3hw: Tensor) -> Tensor:
        """(B, C, 16 H, 16 W) for any number of channels: all of the stack but its last map."""
        for upsampler in (self.up1, self.up2, self.up3, self.up4):
            H, W = source_BCHW.shape[2:]
            source_BCHW = upsampler(source_BCHW, F.adaptive_avg_pool2d(image_B3hw, (2 * H, 2 * W)))
        return source_BCHW

    def last_map(self) -> tuple[Tensor, Tensor]:
        """Weight (D', D') and bias (D',) of the map that follows :meth:`upsample`: the identity and a correction."""
        convolution = self.fixup_proj[1]
        assert isinstance(convolution, nn.Conv2d)  # as made above
        assert convolution.bias is not None
        weight = convolution.weight.flatten(1)
        return torch.eye(len(weight)).to(weight) + _CORRECTION * weight, _CORRECTION * convolution.bias


def filter_locally(padded_BCHW: Tensor, kernels_BPhw: Tensor) -> Tensor:
    """(B, C, h, w): each pixel is the sum of its window in ``padded`` (B, C, h + 6, w + 6), weighted by its kernel.

    All channels share the kernel. Differentiable once, in ``padded`` only: the kernels are constants here.
    """
    filtered: Tensor = _LocalFilter.apply(padded_BCHW, kernels_BPhw)
    return filtered


class _LocalFilter(torch.autograd.Function):
    """Tap by tap: unfolding would hold 49 copies of the source."""

    @staticmethod
    def forward(ctx: Any, padded_BCHW: Tensor, kernels_BPhw: Tensor) -> Tensor:
        ctx.save_for_backward(kernels_BPhw)
        (B, C), (h, w) = padded_BCHW.shape[:2], kernels_BPhw.shape[2:]
        filtered = padded_BCHW.new_zeros(B, C, h, w)
        for window, kernel_Bhw in zip(_windows(padded_BCHW), kernels_BPhw.unbind(1), strict=True):
            filtered.addcmul_(window, kernel_Bhw[:, None])
        return filtered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BChw: Tensor) -> tuple[Tensor, None]:
        (kernels_BPhw,) = ctx.saved_tensors
        B, C, h, w = gradient_BChw.shape
        gradient = gradient_BChw.new_zeros(B, C, h + 2 * RADIUS, w + 2 * RADIUS)
        for window, kernel_Bhw in zip(_windows(gradient), kernels_BPhw.unbind(1), strict=True):
            window.addcmul_(gradient_BChw, kernel_Bhw[:, None])
        return gradient, None


def _windows(padded: Tensor) -> Iterator[Tensor]:
    """The P shifted views (..., h, w) of (..., h + 6, w + 6), row by row."""
    h, w = (side - 2 * RADIUS for side in padded.shape[-2:])
    for row in range(DIAMETER):
        for column in range(DIAMETER):
            yield padded[..., row : row + h, column : column + w]


def _padded(x: Tensor) -> Tensor:
    return F.pad(x, [RADIUS] * 4, mode="reflect")


def _two_layers(in_channels: int, out_channels: int) -> nn.Sequential:
    # The third module stands where the published ones have dropout, so that the names are theirs.
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1), nn.GELU(), nn.Identity(), nn.Conv2d(out_channels, out_channels, 1)
    )
