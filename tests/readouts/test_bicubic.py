"""The bicubic baseline against a plain formula."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deapcache_readouts import (
    WAYS,
    check_gradients,
    check_nothing_is_dead,
    count,
    decoded_by_formula,
    draw,
    draw_uneven,
    fitted,
    make,
    shake,
    tokens_by_formula,
)
from torch import Tensor

from deapcache.readouts.baselines import cubic_weights


def formula(readout, features: Tensor, size: tuple[int, int]) -> Tensor:
    values = readout.value(tokens_by_formula(readout, features, size)).permute(0, 3, 1, 2)
    (h, w), (rows, columns) = size, (-(-size[0] // 8), -(-size[1] // 8))
    # grid_sample's coordinates run from -1 to 1 between the edges of the image, wherever the last region ends
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) * 16 / h - 1, (torch.arange(columns) + 0.5) * 16 / w - 1)
    tall, wide = readout.config.covered
    places = torch.stack([(x + 1) / wide - 1, (y + 1) / tall - 1], -1).to(values).expand(len(values), -1, -1, -1)
    mixed = F.grid_sample(values, places, mode="bicubic", padding_mode="border", align_corners=False)
    return decoded_by_formula(readout, mixed.permute(0, 2, 3, 1))[:, :, :h, :w]


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@WAYS
@pytest.mark.parametrize(
    ("size", "grid"), [((64, 64), (5, 5)), ((40, 72), (6, 3)), ((21, 13), (2, 3)), ((16, 16), (7, 7))]
)
def test_output_and_gradients_are_those_of_the_formula(
    size: tuple[int, int], grid: tuple[int, int], way: dict[str, Any]
) -> None:
    features = draw_uneven(3, *grid, 24)
    readout = fitted(shake(make("bicubic", out_channels=3, grid=grid, **way)), features)
    reference = copy.deepcopy(readout).double()
    output, expected = readout(features, size), formula(reference, features.double(), size)
    assert output.shape == (3, 3, *size)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)
    check_gradients(readout, output, expected, reference)


@pytest.mark.parametrize(("cells", "places"), [(7, 28), (37, 28), (1, 4), (2, 3), (64, 28)])
def test_weights_interpolate_as_pytorch_does(cells: int, places: int) -> None:
    weights = cubic_weights((torch.arange(places) + 0.5) / places, (torch.arange(cells) + 0.5) / cells)
    values = draw(1, 1, cells, 1)
    expected = F.interpolate(values, (places, 1), mode="bicubic", align_corners=False)
    torch.testing.assert_close(weights @ values[0, 0], expected[0, 0], rtol=1e-4, atol=1e-5)


def test_it_is_deap_less_attention() -> None:
    for feature_dim, out_channels in ((24, 1), (768, 21)):
        shape = {"feature_dim": feature_dim, "out_channels": out_channels}
        attention = (feature_dim + 8) * 16 + 16 + 8 * 16 + 16 + 8  # key, query, sigma
        assert count(make("deap", **shape)) - count(make("bicubic", **shape)) == attention


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_dead_at_the_start(seed: int) -> None:
    readout = make("bicubic", seed=seed)
    check_nothing_is_dead(readout, readout(draw(2, 5, 5, 24, seed=seed), (64, 64)))


def test_feature_scale_drops_out_and_half_precision_does() -> None:
    readout, features = make("bicubic"), draw(2, 5, 5, 24)
    expected = readout(features, (32, 32))
    torch.testing.assert_close(readout(features * 1e3, (32, 32)), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(readout(features.half(), (32, 32)), expected, rtol=1e-2, atol=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = readout(features, (32, 32))
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=0.05, atol=0.02)


def test_the_output_bias_is_set_once() -> None:
    readout, features = make("bicubic", out_channels=2), draw(1, 5, 5, 24)
    before = readout(features, (16, 16))
    readout.set_output_bias(torch.tensor([2.0, -3.0]))
    after = readout(features, (16, 16))
    torch.testing.assert_close(after - before, torch.tensor([2.0, -3.0]).view(1, 2, 1, 1).expand_as(before))
