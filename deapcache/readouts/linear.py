"""One linear map of each cell: the field's usual yardstick."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deapcache.readouts.config import READOUTS, Readout, ReadoutConfig, ReadoutEntry
from deapcache.readouts.tokens import STANDARDISED, standardise


@dataclass(frozen=True, kw_only=True)
class LinearConfig(ReadoutConfig):
    """Architecture of :class:`Linear`; it has no D and no CNN."""

    def build(self) -> Linear:
        return Linear(self)


class Linear(Readout):
    """D' → D_out in every cell of the standardised features, resized bilinearly."""

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.feature_dim, config.out_channels)
        self.options = {"features": STANDARDISED, "resizing": "bilinear"}

    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        """See :meth:`Readout.forward`."""
        output_BHWC = self.linear(standardise(features_BHWD)).float()
        return F.interpolate(output_BHWC.permute(0, 3, 1, 2), output_size, mode="bilinear", align_corners=False)

    def set_output_bias(self, values: Tensor) -> None:
        """Start each channel's output at ``values`` (D_out,)."""
        with torch.no_grad():
            self.linear.bias.copy_(values)


READOUTS.add(
    "linear",
    ReadoutEntry(summary="yardstick: one linear map of each cell, upsampled", config=LinearConfig, sizes=()),
)
