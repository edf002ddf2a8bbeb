"""Dense attentive probing (DeAP): masked cross-attention from a grid of output regions, then a small CNN.

Section 3 of the paper.

Shape legend: B batch, H and W feature grid, N = H·W cells, D feature width, Q queries (output regions), S heads,
K width of a key, V width of a value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deapcache.readouts.attention import attend
from deapcache.readouts.cnn import UpsamplingCNN
from deapcache.readouts.config import READOUTS, Readout, ReadoutConfig, ReadoutEntry
from deapcache.readouts.positions import CODE_WIDTH, REGION, Geometry, locate_regions_and_cells

SIGMA_FLOOR = 0.01
"""No mask gets narrower, in units of the image's longer side: its peak, 40 logits, already leaves one cell only."""

SIGMA_WIDEST = 0.5
SIGMA_NARROWEST = 0.03
SIGMA_LEARNING_RATE = 10.0
"""Factor on the learning rate of log σ, which has a long way to go in few, small steps."""

_VARIANCE_FLOOR = 1e-10
"""Added to a cell's variance: far below that of any features, so that their scale drops out, and above rounding."""


@dataclass(frozen=True, kw_only=True)
class DeapConfig(ReadoutConfig):
    """Architecture of :class:`Deap`; the defaults are the paper's full model."""

    code_dim: int = 16
    """D, width of queries, keys and tokens."""
    heads: int = 8
    mask: bool = True
    """Whether each head's Gaussian of the distance is added to the logits; ``no-sigma`` of Table 5 drops it."""

    @property
    def width(self) -> int:
        """CNN channels: ``cnn_width``, or max(D / 4, D_out // 2), the rule that the paper's parameter counts follow."""
        return self.cnn_width or max(self.code_dim // 4, self.out_channels // 2)

    def build(self) -> Deap:
        return Deap(self)


class Deap(Readout):
    """The readout of the paper, and with ``mask=False`` its ablation without masks."""

    def __init__(self, config: DeapConfig) -> None:
        super().__init__()
        self.config = config
        code, width = config.code_dim, config.feature_dim + CODE_WIDTH
        self.norm = nn.LayerNorm(width)
        self.key = nn.Linear(width, code)
        self.value = nn.Linear(width, 2 * code)
        self.query = nn.Linear(CODE_WIDTH, code)
        self.log_sigma = nn.Parameter(_initial_log_sigma(config)) if config.mask else None
        self.ffn = nn.Sequential(nn.Linear(2 * code, 4 * code), nn.GELU(), nn.Linear(4 * code, code))
        self.cnn = UpsamplingCNN(code, config.width, config.out_channels)
        self.options = _options(config)
        self._geometries: dict[Any, Geometry] = {}

    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        """See :meth:`Readout.forward`.

        Regions are 8 × 8 pixels; where a side of ``output_size`` is no multiple of 8, the last regions are cropped.
        """
        geometry = self._geometry(output_size, features_BHWD)
        keys_BNK, values_BNV = self._keys_and_values(features_BHWD, geometry)
        with torch.autocast(features_BHWD.device.type, enabled=False):
            # Logits reach 40 where a mask is narrow; half precision would lose what the features add to them.
            mixed_BQV = self._attend(keys_BNK.float(), values_BNV.float(), geometry)
        tokens_BQD = self.ffn(mixed_BQV)
        output: Tensor = self.cnn(tokens_BQD.unflatten(1, geometry.region_grid).permute(0, 3, 1, 2))
        height, width = output_size
        return output[:, :, :height, :width].float()

    def sigma(self) -> Tensor | None:
        """Width of each head's mask, (heads,), above 0.01, in units of the image's longer side; ``None`` without."""
        return None if self.log_sigma is None else SIGMA_FLOOR + self.log_sigma.exp()

    def set_output_bias(self, values: Tensor) -> None:
        """Start each channel's output at ``values`` (D_out,), in the final convolution's bias; the skip's becomes 0."""
        self.cnn.set_output_bias(values)

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """All parameters, and apart from them log σ: ten times the learning rate and no weight decay."""
        others = [p for p in self.parameters() if p is not self.log_sigma]
        groups: list[dict[str, Any]] = [{"params": others, "lr": lr, "weight_decay": weight_decay}]
        if self.log_sigma is not None:
            groups.append({"params": [self.log_sigma], "lr": SIGMA_LEARNING_RATE * lr, "weight_decay": 0.0})
        return groups

    def _geometry(self, output_size: tuple[int, int], features_BHWD: Tensor) -> Geometry:
        _, H, W, _ = features_BHWD.shape
        wanted = (output_size, (H, W), features_BHWD.device)
        if wanted not in self._geometries:
            self._geometries = {wanted: locate_regions_and_cells(output_size, (H, W), device=features_BHWD.device)}
        return self._geometries[wanted]

    def _keys_and_values(self, features_BHWD: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """(B, N, D) and (B, N, 2D): the projection ψ of [PE, features] in equation 1."""
        cells_BND = features_BHWD.flatten(1, 2).float()
        standardised = F.layer_norm(cells_BND, cells_BND.shape[-1:], eps=_VARIANCE_FLOOR)
        codes = geometry.cell_codes().expand(len(cells_BND), -1, -1)
        normalised = F.layer_norm(torch.cat([codes, standardised], -1), self.norm.normalized_shape, eps=self.norm.eps)
        # LayerNorm's scale and shift go into the projection: its weights are few, the normalised features are many.
        weight = torch.cat([self.key.weight, self.value.weight])
        bias = torch.cat([self.key.bias, self.value.bias]) + weight @ self.norm.bias
        projected = F.linear(normalised, weight * self.norm.weight, bias)
        keys, values = projected.split([self.key.out_features, self.value.out_features], -1)
        return keys, values

    def _attend(self, keys_BNK: Tensor, values_BNV: Tensor, geometry: Geometry) -> Tensor:
        """(B, Q, 2D) float32: all heads' outputs side by side, equation 2."""
        heads = self.config.heads
        # Neither depends on the image: once a step, not once an image.
        queries_SQK = self.query(geometry.region_codes()).unflatten(-1, (heads, -1)).transpose(0, 1)
        scaled_SQK = queries_SQK / math.sqrt(queries_SQK.shape[-1])
        sigma = self.sigma()
        mask_SQN = None if sigma is None else geometry.gaussian_mask(sigma)
        keys_BSNK = keys_BNK.unflatten(-1, (heads, -1)).transpose(1, 2)
        values_BSNV = values_BNV.unflatten(-1, (heads, -1)).transpose(1, 2)
        return attend(scaled_SQK, mask_SQN, keys_BSNK, values_BSNV).transpose(1, 2).flatten(2)


def _initial_log_sigma(config: DeapConfig) -> Tensor:
    """Widths spread evenly in logarithm over the heads, from about half a cell to half the image.

    At a width of 0.03, most queries of a 7×7 grid have no cell in reach, and the head attends everywhere.
    """
    narrowest = max(SIGMA_NARROWEST, SIGMA_WIDEST / min(config.grid))
    widths = torch.logspace(math.log10(narrowest), math.log10(SIGMA_WIDEST), config.heads)
    return (widths - SIGMA_FLOOR).log()


def _options(config: DeapConfig) -> dict[str, Any]:
    mask = {
        "sigma_floor": SIGMA_FLOOR,
        "sigma_start": [f"max({SIGMA_NARROWEST}, {SIGMA_WIDEST} / cells)", SIGMA_WIDEST],
        "sigma_learning_rate": SIGMA_LEARNING_RATE,
    }
    return {
        "code_dim": config.code_dim,
        "heads": config.heads,
        "mask": mask if config.mask else None,
        "position_code": "sin, cos at pi and 2 pi",
        "features": "standardised per cell",
        "region": REGION,
        "cnn_layout": "entry convolution, 3 blocks, skip",
        "cnn_width": config.width,
    }


READOUTS.add(
    "deap", ReadoutEntry(summary="dense attentive probing, the paper's readout", config=partial(DeapConfig, mask=True))
)
READOUTS.add(
    "no-sigma",
    ReadoutEntry(summary="ablation of deap: attention without Gaussian masks", config=partial(DeapConfig, mask=False)),
)
