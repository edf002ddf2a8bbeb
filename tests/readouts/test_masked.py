"""Attention with masks made a group of heads at a time, against attention with all of them."""

from __future__ import annotations

import pytest
import torch

from deapcache.readouts import attention
from deapcache.readouts.attention import attend, attend_masked
from deapcache.readouts.regions import locate_regions_and_cells

HEADS, GRID, SIZE = 5, (3, 4), (16, 24)
QUERIES, CELLS = 6, 12


@pytest.mark.parametrize("limit", [1, QUERIES * CELLS, 2 * QUERIES * CELLS, 10**6])
def test_equals_attention_with_all_masks_forward_and_backward(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "largest_block", lambda device: limit)
    generator = torch.Generator().manual_seed(0)
    shapes = ((HEADS, QUERIES, 2), (3, HEADS, CELLS, 2), (3, HEADS, CELLS, 4))
    q, k, v = (torch.randn(*s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)
    sigma = torch.linspace(0.02, 0.6, HEADS, dtype=torch.float64).requires_grad_()
    geometry = locate_regions_and_cells(SIZE, GRID)
    found = attend_masked(q, sigma, geometry, k, v)
    expected = attend(q, geometry.gaussian_mask(sigma), k, v)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((output * weights).sum(), (q, sigma, k, v)) for output in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
