"""Dense attentive probing (DeAP): masked cross-attention from a grid of output regions, then a small CNN.

Section 3 of the paper.

Shape legend: M stacked members, B batch, H and W feature grid, N = H·W cells, D width of codes, Q queries (output
regions), S heads, K width of a key, V width of a value.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from deapcache.readouts.attention import attend_masked
from deapcache.readouts.base import largest_block
from deapcache.readouts.config import ReadoutConfig
from deapcache.readouts.regions import CODE_WIDTH, Geometry, RegionReadout, project_cells
from deapcache.readouts.separable import attend_from_grid, suits, sum_queries

HEADS = 8
"""Of the attention."""

SIGMA_FLOOR = 0.01
"""No mask gets narrower, in units of the image's longer side: its peak, 40 logits, already leaves one cell only."""

SIGMA_WIDEST = 0.5
SIGMA_NARROWEST = 0.03
SIGMA_LEARNING_RATE = 10.0
"""Factor on the learning rate of log σ, which has a long way to go in few, small steps."""


class Deap(RegionReadout):
    """The readout of the paper; with other than the default choices, its ablations.

    Parameters
    ----------
    mask
        Whether a Gaussian of the distance is added to the logits; ``no-sigma`` of Table 5 drops it.
    shared_sigma
        Whether all heads share one width, ``no-indiv-sigma`` of Table 5, which starts at the geometric mean.
    content
        Whether logits hold the product of query and key; ``only-mask`` of Table 5 drops it, and both projections.
    """

    def __init__(
        self,
        config: ReadoutConfig,
        *,
        mask: bool = True,
        shared_sigma: bool = False,
        content: bool = True,
    ) -> None:
        super().__init__(config)
        self._key = (config, mask, shared_sigma, content)
        code, width = config.code_dim, config.feature_dim + CODE_WIDTH
        self.key = nn.Linear(width, code) if content else None
        self.value = nn.Linear(width, 2 * code)
        self.query = nn.Linear(CODE_WIDTH, code) if content else None
        self.log_sigma = nn.Parameter(_initial_log_sigma(config.grid, 1 if shared_sigma else HEADS)) if mask else None
        self.add_decoder()
        widths = {
            "sigma_floor": SIGMA_FLOOR,
            "sigma_start": [f"max({SIGMA_NARROWEST}, {SIGMA_WIDEST} / cells)", SIGMA_WIDEST],
            "sigma_learning_rate": SIGMA_LEARNING_RATE,
        }
        self.options = {
            "code_dim": code,
            "heads": HEADS,
            "mask": widths if mask else None,
            "shared_sigma": shared_sigma,
            "content": content,
            **self.options,
        }

    def stack_key(self) -> Hashable:
        """Members of one configuration run side by side: their heads as one attention, their projections as one."""
        return self._key

    @classmethod
    def project(cls, members: Sequence[Self], features_BHWD: Tensor, geometry: Geometry) -> list[Tensor]:
        """Each member's keys and values of all heads, (B, N, D + 2D) or (B, N, 2D)."""
        with torch.autocast(features_BHWD.device.type, enabled=False):
            projections = [(member.norm, member.projected) for member in members]
            tokens_BNO = project_cells(members[0], features_BHWD, geometry.cell_codes(), projections)
        return list(tokens_BNO.chunk(len(members), -1))

    @classmethod
    def mix(cls, members: Sequence[Self], projected: Sequence[Tensor], geometry: Geometry) -> list[Tensor]:
        """Masked cross-attention, equation 2; float32."""
        queries, cells = math.prod(geometry.region_grid), projected[0].shape[1]
        together = max(1, largest_block(projected[0].device) // (HEADS * queries * cells))
        mixed: list[Tensor] = []
        # Logits reach 40 where a mask is narrow; half precision would lose what the features add to them.
        with torch.autocast(projected[0].device.type, enabled=False):
            # Members are taken together only while their masks fit into a block: larger ones would leave the cache.
            for start in range(0, len(members), together):
                part = slice(start, start + together)
                mixed += _attend(members[part], torch.stack(list(projected[part]), 2), geometry)
        return [mixed_BQV.unflatten(1, geometry.region_grid) for mixed_BQV in mixed]

    @property
    def projected(self) -> list[nn.Linear]:
        """The linear maps of a cell, whose outputs are side by side in what :meth:`project` gives."""
        return [self.value] if self.key is None else [self.key, self.value]

    def sigma(self) -> Tensor | None:
        """Width of each head's mask, (heads,), above 0.01, in units of the image's longer side; ``None`` without."""
        if self.log_sigma is None:
            return None
        return (SIGMA_FLOOR + self.log_sigma.exp()).expand(HEADS)

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """All parameters, and apart from them log σ: ten times the learning rate and no weight decay."""
        others = [p for p in self.parameters() if p is not self.log_sigma]
        groups: list[dict[str, Any]] = [{"params": others, "lr": lr, "weight_decay": weight_decay}]
        if self.log_sigma is not None:
            groups.append({"params": [self.log_sigma], "lr": SIGMA_LEARNING_RATE * lr, "weight_decay": 0.0})
        return groups


def _attend(members: Sequence[Deap], tokens_BNMT: Tensor, geometry: Geometry) -> list[Tensor]:
    """Each member's (B, Q, V · heads) float32: all heads' outputs side by side, equation 2."""

    def heads_of(part: Tensor) -> Tensor:
        # (B, N, M, heads · width) to (B, M · heads, N, width)
        return part.unflatten(-1, (HEADS, -1)).flatten(2, 3).transpose(1, 2)

    *keys, values = tokens_BNMT.split([layer.out_features for layer in members[0].projected], -1)
    # Neither queries nor mask depend on the image: once a step, not once an image.
    sigmas = [sigma for member in members if (sigma := member.sigma()) is not None]
    sigma_S, queries = torch.cat(sigmas) if sigmas else None, _queries(members, geometry)
    values_BSNV = heads_of(values)
    if queries is None:
        assert sigma_S is not None  # the configuration has one of the two
        weights_SQN = torch.softmax(geometry.gaussian_mask(sigma_S), -1)
        # The same weights for every image, which are not copied for each of them.
        mixed_SQT = weights_SQN @ values_BSNV.permute(1, 2, 0, 3).flatten(2)
        mixed_BSQV = mixed_SQT.unflatten(-1, (len(values_BSNV), -1)).permute(2, 0, 1, 3)
    else:
        keys_BSNK = heads_of(keys[0])
        if sigma_S is None or suits(*queries, keys_BSNK.shape[2]):
            mask_SQN = None if sigma_S is None else geometry.gaussian_mask(sigma_S)
            mixed_BSQV = attend_from_grid(*queries, mask_SQN, keys_BSNK, values_BSNV)
        else:  # without ever holding the masks of all heads
            mixed_BSQV = attend_masked(sum_queries(*queries), sigma_S, geometry, keys_BSNK, values_BSNV)
    return [mixed.transpose(1, 2).flatten(2) for mixed in mixed_BSQV.chunk(len(members), 1)]


def _queries(members: Sequence[Deap], geometry: Geometry) -> tuple[Tensor, Tensor] | None:
    """Parts of the queries by row and by column of the region grid, (M · heads, R, K) and (M · heads, C, K).

    Scaled by 1/√K; ``None`` where logits hold no product.
    """
    projections = [member.query for member in members if member.query is not None]
    if not projections:
        return None
    weight = torch.cat([query.weight for query in projections])
    bias = torch.cat([query.bias for query in projections])
    row_codes, column_codes = (codes.to(weight.dtype) for codes in geometry.axis_codes())
    rows, columns = nn.functional.linear(row_codes, weight, bias), nn.functional.linear(column_codes, weight)

    def by_head(part: Tensor) -> Tensor:
        split = part.unflatten(-1, (HEADS * len(members), -1)).transpose(0, 1)
        return split / math.sqrt(split.shape[-1])

    return by_head(rows), by_head(columns)


def _initial_log_sigma(grid: tuple[int, int], count: int) -> Tensor:
    """Widths spread evenly in logarithm over the heads, from about half a cell to half the image.

    A single one starts at the geometric mean. At a width of 0.03, most queries of a 7×7 grid have no cell in reach, and
    the head attends everywhere.
    """
    narrowest = max(SIGMA_NARROWEST, SIGMA_WIDEST / min(grid))
    if count == 1:
        widths = torch.tensor([math.sqrt(narrowest * SIGMA_WIDEST)])
    else:
        widths = torch.logspace(math.log10(narrowest), math.log10(SIGMA_WIDEST), count)
    return (widths - SIGMA_FLOOR).log()
