"""The paper's baselines (section 4.2), and what the field compares with: linear maps, and a decoder of several layers.

Shape legend: B batch, H and W feature grid, N = H·W cells, R rows and C columns of the region grid, D feature width, V
width of all values, O output channels, h and w pixels; in the decoder, D channels of all layers, C of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deapcache.readouts.base import Readout, StackedReadout
from deapcache.readouts.config import ReadoutConfig
from deapcache.readouts.regions import (
    CODE_WIDTH,
    Geometry,
    RegionReadout,
    project_cells,
)

_SHARPNESS = -0.75
"""Slope of the cubic kernel at 1, as PyTorch and OpenCV have it."""

_REGIONS = 28
"""Regions along a side of the paper's 224 × 224 output: what the stride of ``transposed-conv`` aims at."""


class Bicubic(RegionReadout):
    """Tokens projected to 2D channels, interpolated to the grid of regions; then DeAP's MLP and CNN."""

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        self.add_decoder()
        self.value = nn.Linear(config.feature_dim + CODE_WIDTH, 2 * config.code_dim)
        self.options = {**self.options, "interpolation": "bicubic"}

    @classmethod
    def project(cls, members: Sequence[Self], features_BHWD: Tensor, geometry: Geometry) -> list[Tensor]:
        """All projections as one, and one interpolation of what they give."""
        with torch.autocast(features_BHWD.device.type, enabled=False):
            projections = [(member.norm, [member.value]) for member in members]
            values_BNV = project_cells(members[0], features_BHWD, geometry.cell_codes(), projections)
        rows_RH = cubic_weights(geometry.region_rows, geometry.cell_rows).to(values_BNV.dtype)
        columns_CW = cubic_weights(geometry.region_columns, geometry.cell_columns).to(values_BNV.dtype)
        values_BHWV = values_BNV.unflatten(1, features_BHWD.shape[1:3])
        mixed_BRCV = torch.einsum("rh,cw,bhwv->brcv", rows_RH, columns_CW, values_BHWV)
        return list(mixed_BRCV.chunk(len(members), -1))


def cubic_weights(places: Tensor, cells: Tensor) -> Tensor:
    """(places, cells) float32: what each cell contributes to a value interpolated at each place, along one axis.

    ``cells`` are evenly spaced centres. Beyond the outermost centre its value goes on. Keys, "Cubic convolution
    interpolation for digital image processing", 1981.
    """
    # A grid begins at the edge, so its first centre is half a cell from it.
    steps = places / (2 * cells[0]) - 0.5
    taps = steps.floor()[:, None] + torch.arange(-1, 3, device=steps.device)
    a, distance = _SHARPNESS, (steps[:, None] - taps).abs()
    near = ((a + 2) * distance - (a + 3)) * distance.square() + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    weights = torch.where(distance <= 1, near, far)
    owners = taps.long().clamp(0, len(cells) - 1)
    return (weights[..., None] * F.one_hot(owners, len(cells))).sum(1)


class Transposed(RegionReadout):
    """Tokens to stride × stride regions each, by learned filters; then DeAP's MLP and CNN.

    As the paper says, the output's resolution follows that of the features: 8 · stride pixels a cell, resized
    bilinearly to the size asked for.
    """

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        self.add_decoder()
        width = config.feature_dim + CODE_WIDTH
        rows, columns = config.grid
        # regions per feature cell along each axis
        stride = max(1, round(_REGIONS / rows)), max(1, round(_REGIONS / columns))
        self.value = nn.ConvTranspose2d(width, 2 * config.code_dim, stride, stride)
        # Each region sees one cell; PyTorch's start takes the number of outputs for that of inputs.
        nn.init.uniform_(self.value.weight, -(width**-0.5), width**-0.5)
        self.options = {**self.options, "stride": f"max(1, round({_REGIONS} / cells))", "resizing": "bilinear"}

    @classmethod
    def project(cls, members: Sequence[Self], features_BHWD: Tensor, geometry: Geometry) -> list[Tensor]:
        B, H, W, _ = features_BHWD.shape
        codes_BHWC = geometry.cell_codes().unflatten(0, (H, W)).expand(B, -1, -1, -1)
        cells_BHWD = torch.cat([codes_BHWC, members[0].standardise(features_BHWD)], -1)
        tokens = [member.norm(cells_BHWD).permute(0, 3, 1, 2) for member in members]
        return [member.value(x).permute(0, 2, 3, 1) for member, x in zip(members, tokens, strict=True)]

    def at_size(self, output_BOhw: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Its own size follows the features' grid."""
        return self.resize(output_BOhw, output_size)


class Linear(StackedReadout):
    """D' → D_out in every cell of the standardised features, resized bilinearly; it has no D and no CNN."""

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        self.linear = nn.Linear(config.feature_dim, config.out_channels)
        self.options = {"features": self.features_option, "resizing": "bilinear"}

    @classmethod
    def normalise(cls, members: Sequence[Self], features_BHWD: Tensor) -> Tensor:
        """(B, H, W, D'): what the maps of all members are applied to."""
        return members[0].standardise(features_BHWD)

    def weight_and_bias(self) -> tuple[Tensor, Tensor]:
        """Weight (D_out, D') and bias (D_out,) that follow :meth:`normalise`."""
        return self.linear.weight, self.linear.bias

    @classmethod
    def forward_stacked(
        cls,
        members: Sequence[Self],
        features_BHWD: Tensor,
        output_size: tuple[int, int],
        guidance: Tensor | None = None,
    ) -> list[Tensor]:
        weights, biases = zip(*(member.weight_and_bias() for member in members), strict=True)
        output_BHWO = F.linear(cls.normalise(members, features_BHWD), torch.cat(weights), torch.cat(biases)).float()
        return list(members[0].resize(output_BHWO.permute(0, 3, 1, 2), output_size).chunk(len(members), 1))

    def set_output_bias(self, values: Tensor) -> None:
        """Start each channel's output at ``values`` (D_out,)."""
        with torch.no_grad():
            self.linear.bias.copy_(values)


_MOMENTUM = 0.1
_EPS = 1e-5
"""Of the batch norm, as PyTorch has them."""


class LinearBN(Linear):
    """Batch norm over the channels, D' → D_out in every cell, resized bilinearly: the field's linear head.

    That of DINOv2's (Oquab et al. 2023, section 7.4) and DINOv3's segmentation and depth: ``SyncBatchNorm`` and a 1 × 1
    convolution of the last layer's patch tokens, whose weights start normal with standard deviation 0.01. Not here: the
    class token that their depth heads add, and DINOv3's dropout. With :meth:`eval`, running statistics are used.
    """

    features_as_published = "as they are"

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        self.scale = nn.Parameter(torch.ones(config.feature_dim))
        self.shift = nn.Parameter(torch.zeros(config.feature_dim))
        self.register_buffer("running_mean", torch.zeros(config.feature_dim))
        self.register_buffer("running_var", torch.ones(config.feature_dim))
        self.options = {**self.options, "norm": f"batch norm, momentum {_MOMENTUM}"}

    @classmethod
    def normalise(cls, members: Sequence[Self], features_BHWD: Tensor) -> Tensor:
        """In training, by the statistics of the batch, which all members take note of; else as they are."""
        features_BHWD = super().normalise(members, features_BHWD)
        if not members[0].training:
            return features_BHWD
        mean, variance = torch.zeros_like(members[0].running_mean), torch.ones_like(members[0].running_var)
        normed = F.batch_norm(
            features_BHWD.flatten(0, 2), mean, variance, training=True, momentum=1.0, eps=_EPS
        ).view_as(features_BHWD)
        for member in members:
            member.running_mean.lerp_(mean, _MOMENTUM)
            member.running_var.lerp_(variance, _MOMENTUM)
        return normed

    def weight_and_bias(self) -> tuple[Tensor, Tensor]:
        """With the affine part of the norm, and where running statistics are used, those as well."""
        scale: Tensor = self.scale
        shift: Tensor = self.shift
        if not self.training:
            scale = scale * torch.rsqrt(self.running_var + _EPS)
            shift = shift - self.running_mean * scale
        return self.linear.weight * scale, self.linear.bias + self.linear.weight @ shift


WIDTH = 128
"""C on the grid of the features; each doubling of the resolution halves it."""


class ResidualUnit(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), both 3 × 3: Ranftl et al. 2021 after RefineNet, without batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        found: Tensor = x_BCHW + self.second(F.relu(self.first(F.relu(x_BCHW))))
        return found


class MultiScale(Readout):
    """Layers fused from deep to shallow by residual units, then twice the resolution twice, and a 1 × 1 output.

    In the manner of DPT (Ranftl et al. 2021, "Vision transformers for dense prediction", section 3) as it is used for
    probing (Banani et al. 2024, "Probing the 3D awareness of visual foundation models"): a 1 × 1 projection of each
    layer; the deepest goes through a residual unit; each shallower one is added to what there is, through a unit of its
    own, and another unit follows. Ours: its width; all layers stay on the features' grid until they are fused, since
    those of a plain vision transformer have one resolution; bilinear doubling, each followed by a 3 × 3 convolution
    and ReLU. The sizes of the layers are ``ReadoutConfig.parts``; none given, it decodes a single layer.

    A yardstick of what a large decoder gets, not a readout of few parameters: 2.6 million for four layers of 768.
    """

    needs_layers = True

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        self.parts = config.parts or (config.feature_dim,)
        self.projections = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for width in self.parts)
        self.skips = nn.ModuleList(ResidualUnit(WIDTH) for _ in self.parts[1:])
        self.fusions = nn.ModuleList(ResidualUnit(WIDTH) for _ in self.parts)
        self.stages = nn.ModuleList(
            [nn.Conv2d(WIDTH, WIDTH // 2, 3, padding=1), nn.Conv2d(WIDTH // 2, WIDTH // 4, 3, padding=1)]
        )
        self.output = nn.Conv2d(WIDTH // 4, config.out_channels, 1)
        self.options = {
            "features": self.features_option,
            "width": WIDTH,
            "fusion": "deep to shallow, residual units",
            "resizing": "bilinear",
        }

    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        cells_BDHW = self.standardise(features_BHWD).permute(0, 3, 1, 2)
        split = cells_BDHW.split(self.parts, 1)
        *shallow, deepest = (project(x) for project, x in zip(self.projections, split, strict=True))
        *fusions, deepest_fusion = self.fusions
        fused_BCHW = deepest_fusion(deepest)
        for layer, skip, fusion in reversed(list(zip(shallow, self.skips, fusions, strict=True))):
            fused_BCHW = fusion(fused_BCHW + skip(layer))
        for convolution in self.stages:
            doubled = F.interpolate(fused_BCHW, scale_factor=2, mode="bilinear", align_corners=False)
            fused_BCHW = F.relu(convolution(doubled))
        return self.resize(self.output(fused_BCHW).float(), output_size)

    def set_output_bias(self, values: Tensor) -> None:
        """Start each channel's output at ``values`` (O,)."""
        with torch.no_grad():
            self.output.bias.copy_(values)  # type: ignore[union-attr]
