"""Attention by products of exponentials equals the plain formula, and steps aside where products would underflow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deapcache.readouts import separable
from deapcache.readouts.separable import attend_from_grid

B, S, R, C, N, K, V = 3, 4, 5, 6, 7, 2, 3


def draw(*, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "rows": (S, R, K),
        "columns": (S, C, K),
        "bias": (S, R * C, N),
        "keys": (B, S, N, K),
        "values": (B, S, N, V),
    }
    drawn = {name: torch.randn(*shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}
    return {name: (scale * value if name == "keys" else value).requires_grad_() for name, value in drawn.items()}


def plain(rows: Tensor, columns: Tensor, bias: Tensor | None, keys: Tensor, values: Tensor) -> Tensor:
    queries = (rows[:, :, None] + columns[:, None]).flatten(1, 2)
    logits = queries @ keys.transpose(2, 3)
    return (logits if bias is None else logits + bias).softmax(-1) @ values


def compare(given: dict[str, Tensor | None], **tolerance: float) -> None:
    inputs = [value for value in given.values() if value is not None]
    found, expected = attend_from_grid(*given.values()), plain(*given.values())
    torch.testing.assert_close(found, expected, **tolerance)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    ours, theirs = (torch.autograd.grad((output * weights).sum(), inputs) for output in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("limit", [1, 210, 500, 840, 2000, 10**6])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_the_plain_formula_in_blocks_of_any_size(limit: int, with_bias: bool, monkeypatch) -> None:
    monkeypatch.setattr(separable, "largest_block", lambda device: limit)
    given: dict[str, Tensor | None] = dict(draw())
    if not with_bias:
        given["bias"] = None
    compare(given, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("limit", "is_general"), [(R * C * N - 1, True), (R * C * N, False)])
def test_is_the_general_attention_where_no_head_fits_into_a_block(limit, is_general, monkeypatch) -> None:
    monkeypatch.setattr(separable, "largest_block", lambda device: limit)
    calls: list[int] = []
    general = separable.attend
    monkeypatch.setattr(separable, "attend", lambda *given: calls.append(1) or general(*given))
    attend_from_grid(*draw().values())
    assert bool(calls) == is_general


def test_masks_as_narrow_as_they_get() -> None:
    """A peak of 40 logits, as σ = 0.01 has, on another cell than the content's."""
    given = draw(scale=5, dtype=torch.float32)
    with torch.no_grad():
        given["bias"].zero_()[:, :, 3] = 40.0
    compare(dict(given), rtol=1e-4, atol=1e-5)


def test_logits_too_far_apart_for_products(monkeypatch) -> None:
    """Row and column pull to different cells by hundreds of logits: every product is 0, the softmax is not."""
    called = []
    general = separable.attend
    monkeypatch.setattr(separable, "attend", lambda *given: called.append(1) or general(*given))
    given = draw(scale=200, dtype=torch.float32)
    found = attend_from_grid(*given.values())
    assert called
    torch.testing.assert_close(found, plain(*given.values()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("height", [60.0, 75.0, 100.0])
def test_a_bias_whose_exponential_is_huge(height: float) -> None:
    given = draw(dtype=torch.float32)
    with torch.no_grad():
        given["bias"].zero_()[:, :, 3] = height
    compare(dict(given), rtol=1e-4, atol=1e-5)


def test_not_a_number_stays_one() -> None:
    given = draw()
    with torch.no_grad():
        given["keys"][0, 0, 0, 0] = torch.nan
    assert attend_from_grid(*given.values())[0, 0].isnan().all()


def test_no_tensor_of_all_images_heads_queries_and_cells_is_kept() -> None:
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        attend_from_grid(*draw().values())
    assert max(kept) < B * S * R * C * N
