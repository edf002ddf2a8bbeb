"""The ablations of Table 5 against the plain formula, and what each one lacks."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from deapcache_readouts import (
    check_gradients,
    check_nothing_is_dead,
    code,
    count,
    decoded_by_formula,
    draw,
    make,
    shake,
    tokens_by_formula,
)
from torch import Tensor

ABLATIONS = ("8-dim", "no-sigma", "no-indiv-sigma", "only-mask")


def formula(name: str, readout, features: Tensor, size: tuple[int, int]) -> Tensor:
    """Equation 2 head by head and region by region, less what the ablation drops."""
    (H, W), D = features.shape[1:3], 8 if name == "8-dim" else 16
    tokens = tokens_by_formula(readout, features, size).flatten(1, 2)
    rows, columns = math.ceil(size[0] / 8), math.ceil(size[1] / 8)
    cells = [((i + 0.5) * size[0] / H, (j + 0.5) * size[1] / W) for i in range(H) for j in range(W)]
    regions = [((r + 0.5) * 8, (c + 0.5) * 8) for r in range(rows) for c in range(columns)]
    mixed = []
    for y, x in regions:
        place = torch.tensor(code(y / max(size), x / max(size)), dtype=features.dtype)
        distances = torch.tensor([math.hypot(y - v, x - u) / max(size) for v, u in cells], dtype=features.dtype)
        heads = []
        for h in range(8):
            logits = torch.zeros(len(features), H * W, dtype=features.dtype)
            if name != "only-mask":
                part = slice(h * D // 8, (h + 1) * D // 8)
                logits = logits + readout.key(tokens)[..., part] @ readout.query(place)[part] / math.sqrt(D / 8)
            if name != "no-sigma":
                sigma = 0.01 + readout.log_sigma.exp()[0 if name == "no-indiv-sigma" else h]
                logits = logits + torch.exp(-(distances**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
            values = readout.value(tokens)[..., h * D // 4 : (h + 1) * D // 4]
            heads.append((logits.softmax(-1)[:, None] @ values)[:, 0])
        mixed.append(torch.cat(heads, -1))
    output = decoded_by_formula(readout, torch.stack(mixed, 1).unflatten(1, (rows, columns)))
    return output[:, :, : size[0], : size[1]]


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize(("size", "grid"), [((32, 32), (4, 4)), ((21, 30), (3, 2))])
def test_output_and_gradients_are_those_of_the_formula(name: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    readout, features = shake(make(name, out_channels=3, grid=grid)), draw(2, *grid, 24)
    reference = copy.deepcopy(readout).double()
    output, expected = readout(features, size), formula(name, reference, features.double(), size)
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)
    check_gradients(readout, output, expected, reference)


@pytest.mark.parametrize("feature_dim", [24, 768])
def test_what_each_one_saves(feature_dim: int) -> None:
    def saved(name: str) -> int:
        return count(make("deap", feature_dim=feature_dim)) - count(make(name, feature_dim=feature_dim))

    assert saved("no-sigma") == 8
    assert saved("no-indiv-sigma") == 7
    assert saved("only-mask") == 16 * (feature_dim + 8) + 16 + 8 * 16 + 16  # the key's and the query's projections
    assert count(make("8-dim", feature_dim=feature_dim)) == count(make("deap:8", feature_dim=feature_dim))
    assert make("8-dim").options == make("deap:8").options


def test_one_width_is_reported_for_every_head() -> None:
    readout = make("no-indiv-sigma")
    assert readout.sigma().shape == (8,)
    assert len(readout.sigma().unique()) == 1
    assert math.isclose(readout.sigma()[0].item(), math.sqrt(0.5 / 5 * 0.5), rel_tol=1e-5)
    assert make("no-sigma").sigma() is None
    assert len(make("only-mask").sigma().unique()) == 8


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_dead_at_the_start(name: str, seed: int) -> None:
    readout = make(name, seed=seed)
    # A bias of the keys adds one number to all logits of a query, which the softmax takes away again.
    check_nothing_is_dead(readout, readout(draw(2, 5, 5, 24, seed=seed), (64, 64)), but=("key.bias",))
