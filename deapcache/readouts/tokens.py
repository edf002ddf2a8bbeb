"""What the baselines of section 4.2 share with DeAP, so that only the step to the grid of regions differs.

Shape legend: B batch, H and W feature grid, R rows and C columns of the region grid, D feature width, V = 2D width of a
mixture, O output channels, h and w pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from deapcache.readouts.cnn import UpsamplingCNN, run_side_by_side
from deapcache.readouts.config import Readout, ReadoutConfig
from deapcache.readouts.positions import CODE_WIDTH, REGION, Geometry, locate_regions_and_cells
from deapcache.readouts.projection import VARIANCE_FLOOR

STANDARDISED = "standardised per cell"
"""What the protocol says of features that went through :func:`standardise`."""


def standardise(features_BHWD: Tensor) -> Tensor:
    """(B, H, W, D) float32: each cell with mean 0 and variance 1 over its channels.

    Backbones without a final norm give features of any scale; at one learning rate for all, that would decide how far
    a readout gets.
    """
    return F.layer_norm(features_BHWD.float(), features_BHWD.shape[-1:], eps=VARIANCE_FLOOR)


class RegionReadout(Readout):
    """A baseline of section 4.2: DeAP with something else in place of the cross-attention.

    ``norm`` is over [code of a cell's position, its standardised features]; MLP and CNN are DeAP's. A subclass says how
    cells become mixtures on the grid of regions, and how the output is brought to its size.
    """

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__()
        self.config = config
        code, width = config.code_dim, config.feature_dim + CODE_WIDTH
        self.norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(2 * code, 4 * code), nn.GELU(), nn.Linear(4 * code, code))
        self.cnn = UpsamplingCNN(code, config.width, config.out_channels)
        self.options = _options(config)

    @classmethod
    @abstractmethod
    def mix(cls, members: Sequence[Self], features_BHWD: Tensor, geometry: Geometry) -> list[Tensor]:
        """Each member's mixtures (B, R, C, 2D)."""

    @staticmethod
    @abstractmethod
    def fit(output_BOhw: Tensor, output_size: tuple[int, int]) -> Tensor:
        """The output at the size asked for."""

    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        """See :meth:`Readout.forward`."""
        return self.forward_stacked([self], features_BHWD, output_size)[0]

    def stack_key(self) -> Hashable:
        """Members of one configuration run side by side."""
        return self.config

    @classmethod
    def forward_stacked(
        cls,
        members: Sequence[Readout],
        features_BHWD: Tensor,
        output_size: tuple[int, int],
        guidance: Tensor | None = None,
    ) -> list[Tensor]:
        """See :meth:`Readout.forward_stacked`."""
        ours = [member for member in members if isinstance(member, cls)]
        _, H, W, _ = features_BHWD.shape
        shape, device = ours[0].trained_size, features_BHWD.device
        geometry = locate_regions_and_cells(output_size, (H, W), shape=shape, device=device)
        mixed = cls.mix(ours, features_BHWD, geometry)
        tokens_BDRC = [
            member.ffn(mixed_BRCV).permute(0, 3, 1, 2) for member, mixed_BRCV in zip(ours, mixed, strict=True)
        ]
        outputs = run_side_by_side([member.cnn for member in ours], tokens_BDRC)
        return [cls.fit(output_BOhw.float(), output_size) for output_BOhw in outputs]

    def set_output_bias(self, values: Tensor) -> None:
        """Start each channel's output at ``values`` (D_out,), in the final convolution's bias; the skip's becomes 0."""
        self.cnn.set_output_bias(values)


def _options(config: ReadoutConfig) -> dict[str, Any]:
    return {
        "code_dim": config.code_dim,
        "position_code": "sin, cos at pi and 2 pi",
        "features": STANDARDISED,
        "region": REGION,
        "cnn_layout": "entry convolution, 3 blocks, skip",
        "cnn_width": config.width,
    }
