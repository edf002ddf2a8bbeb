"""A convolutional decoder over several layers, as dense prediction transformers have one.

Shape legend: B batch, H and W feature grid, D' channels of all layers, C channels of the decoder, O output channels, h
and w pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deapcache.readouts.base import Readout
from deapcache.readouts.config import ReadoutConfig

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
