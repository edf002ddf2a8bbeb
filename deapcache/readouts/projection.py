"""From feature cells to narrow tokens: standardise, join the position code, layer norm, project.

Equation 1 of the paper, ψ([PE, features]), for one readout or for several at once.

Shape legend: B batch, H and W feature grid, N = H·W cells, D feature width, O outputs of all projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

VARIANCE_FLOOR = 1e-10
"""Added to a cell's variance: far below that of any features, so that their scale drops out, and above rounding."""


@dataclass(frozen=True)
class Projection:
    """A layer norm over [code, features], (8 + D) wide, and the linear maps that follow it."""

    norm: nn.LayerNorm
    linears: Sequence[nn.Linear]

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (O, 8 + D) and bias (O,) of all linear maps, with the norm's scale and shift in them."""
        weight = torch.cat([linear.weight for linear in self.linears])
        bias = torch.cat([linear.bias for linear in self.linears]) + weight @ self.norm.bias
        return weight * self.norm.weight, bias


def project_cells(features_BHWD: Tensor, codes_NC: Tensor, projections: Sequence[Projection]) -> Tensor:
    """(B, N, O) float32 (float64 for float64 features): the outputs of all ``projections`` side by side.

    What it computes is ``linear(norm(cat([code, standardised features])))``. Both normalisations are affine in a cell's
    features, with two numbers a cell, so they come after the product instead of before it: the features are read, never
    copied, and once for all projections.
    """
    folded = [projection.folded() for projection in projections]
    weight_OW, bias_O = torch.cat([weight for weight, _ in folded]), torch.cat([bias for _, bias in folded])
    cells_BND = features_BHWD.flatten(1, 2).to(weight_OW.dtype)
    code_width = codes_NC.shape[1]
    for_code, for_features = weight_OW[:, :code_width], weight_OW[:, code_width:]
    with torch.no_grad():
        scales = _scales(cells_BND, codes_NC.to(weight_OW.dtype), projections[0].norm.eps)
    products_BNO = cells_BND @ for_features.T
    codes_NO = codes_NC.to(weight_OW.dtype) @ for_code.T
    shift_BNO = scales.mean_of_features * for_features.sum(1)
    centre_BNO = scales.mean * weight_OW.sum(1)
    return scales.of_features * (products_BNO - shift_BNO) + scales.of_all * (codes_NO - centre_BNO) + bias_O


@dataclass(frozen=True)
class _Scales:
    """What the two normalisations do to each cell, all (B, N, 1)."""

    mean_of_features: Tensor
    of_features: Tensor
    """Factor on features less their mean, through both normalisations."""
    mean: Tensor
    """Of code and standardised features together."""
    of_all: Tensor
    """Factor of the layer norm."""


def _scales(cells_BND: Tensor, codes_NC: Tensor, eps: float) -> _Scales:
    # A layer norm's moments are several times as fast as var_mean on a CPU; what it makes of the cells is dropped.
    D = cells_BND.shape[-1]
    _, mean, standardising = torch.native_layer_norm(cells_BND, [D], None, None, VARIANCE_FLOOR)
    width = D + codes_NC.shape[-1]
    # standardised features sum to 0, and their squares to D (to 0 in a cell whose features are all equal)
    squares = D * (1 - VARIANCE_FLOOR * standardising.square()).clamp(min=0)
    mean_of_all = codes_NC.sum(-1, keepdim=True) / width
    variance_of_all = (squares + codes_NC.square().sum(-1, keepdim=True)) / width - mean_of_all.square()
    of_all = torch.rsqrt(variance_of_all + eps)
    return _Scales(mean, of_all * standardising, mean_of_all, of_all)
