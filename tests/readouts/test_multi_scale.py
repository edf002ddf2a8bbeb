"""The decoder over several layers is what plain torch modules with its weights give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deapcache.errors import UsageError
from deapcache.readouts import build_readout, restore_readout
from deapcache.readouts.base import Readout

PARTS = (24, 16, 40)


def made(parts: tuple[int, ...] = PARTS, **changes) -> Readout:
    given = {"feature_dim": sum(PARTS), "out_channels": 3, "grid": (5, 6), "seed": 4, "parts": parts, **changes}
    return build_readout("multi-scale", **given)


def plain(state: dict[str, torch.Tensor], features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The same from modules of torch alone, layer by layer as the docstring says."""

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        module = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[-1], padding=weight.shape[-1] // 2)
        module.load_state_dict({"weight": weight, "bias": state[f"{name}.bias"]})
        return module(x)

    def unit(name: str, x: torch.Tensor) -> torch.Tensor:
        return x + conv(f"{name}.second", torch.relu(conv(f"{name}.first", torch.relu(x))))

    starts = [sum(PARTS[:place]) for place in range(len(PARTS))]
    layers = []
    for place, (start, width) in enumerate(zip(starts, PARTS, strict=True)):
        part = features[..., start : start + width]
        part = (part - part.mean(-1, keepdim=True)) / part.std(-1, correction=0, keepdim=True)
        layers.append(conv(f"projections.{place}", part.permute(0, 3, 1, 2)))
    x = unit("fusions.2", layers[2])
    x = unit("fusions.1", x + unit("skips.1", layers[1]))
    x = unit("fusions.0", x + unit("skips.0", layers[0]))
    for stage in ("stages.0", "stages.1"):
        x = torch.relu(conv(stage, nn.Upsample(scale_factor=2, mode="bilinear")(x)))
    return F.interpolate(conv("output", x), size, mode="bilinear")


def test_it_is_what_plain_modules_give() -> None:
    readout = made().eval()
    features = 3 + torch.randn(2, 5, 6, sum(PARTS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = readout(features, (40, 48)), plain(dict(readout.state_dict()), features, (40, 48))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert found.std() > 0.01


def test_parameters_by_hand_and_every_one_learns() -> None:
    readout, width = made(), 128
    unit = 2 * (9 * width * width + width)
    stages = 9 * width * 64 + 64 + 9 * 64 * 32 + 32
    expected = sum(width * part + width for part in PARTS) + 5 * unit + stages + 32 * 3 + 3
    assert sum(p.numel() for p in readout.parameters()) == expected
    readout(torch.randn(2, 5, 6, sum(PARTS)), (20, 24)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in readout.parameters())


def test_it_comes_back_and_starts_where_it_is_told() -> None:
    readout = made(standardise="channel")
    readout.set_feature_statistics(torch.zeros(sum(PARTS)), torch.ones(sum(PARTS)))
    readout.set_output_bias(torch.tensor([1.0, -2.0, 30.0]))
    features = torch.randn(1, 5, 6, sum(PARTS))
    again = restore_readout(
        "multi-scale", feature_dim=sum(PARTS), out_channels=3, grid=(5, 6), parts=PARTS, standardise="channel",
        options=readout.options, state=readout.state_dict(),
    )  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(again(features, (9, 9)), readout(features, (9, 9)))
        assert float(again(features, (9, 9))[:, 2].mean()) == pytest.approx(30, abs=2)


def test_layers_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(UsageError, match=r"layers of \(24, 16\) channels are joined: expected 80 in all"):
        made((24, 16))
