"""Readouts to test, and what is asked of every one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deapcache.readouts import Readout, build_readout

FEATURE_DIM = 24


def make(name: str, **changes: Any) -> Readout:
    """A small readout; anything of :func:`build_readout` may be given."""
    arguments = {"feature_dim": FEATURE_DIM, "out_channels": 1, "grid": (5, 5), "seed": 0}
    return build_readout(name, **{**arguments, **changes})


WAYS = pytest.mark.parametrize(
    "way", [{}, {"standardise": "channel"}, {"covered": (504 / 512, 0.75)}], ids=["cell", "channel", "covered"]
)
"""What a readout's features go through, and what part of the image they cover."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_images(*shape: int, seed: int = 0) -> Tensor:
    """Smooth random images, uint8: the shape ends in (h, w, 3)."""
    noise = draw(shape[0], 3, 6, 6, seed=seed)
    smooth = nn.functional.interpolate(noise, shape[1:3], mode="bicubic")
    return (128 + 50 * smooth).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def count(readout: nn.Module) -> int:
    """Learnable parameters."""
    return sum(p.numel() for p in readout.parameters() if p.requires_grad)


def shake(readout: Readout) -> Readout:
    """Move every learnable parameter away from where it started, where some are 0 or 1."""
    with torch.no_grad():
        for number, parameter in enumerate(readout.parameters()):
            if parameter.requires_grad:
                parameter += 0.2 * draw(*parameter.shape, seed=number)
    return readout


def draw_uneven(*shape: int, seed: int = 0) -> Tensor:
    """Features whose channels have scales from 1e-3 to 60 and offsets of that size; the second one is constant."""
    scales = torch.logspace(-3, math.log10(60), shape[-1])
    features = (draw(*shape, seed=seed) + draw(shape[-1], seed=seed + 1)) * scales
    features[..., 1] = 60.0
    return features


def fitted(readout: Any, features: Tensor) -> Any:
    """The readout; where it standardises per channel, with the statistics of these features."""
    if hasattr(readout, "feature_mean"):
        cells = features.flatten(0, -2).double()
        readout.set_feature_statistics(cells.mean(0), cells.std(0, correction=0))
    return readout


def standardised(features: Tensor, readout: Any = None) -> Tensor:
    """As a readout that standardises per channel has it; else each cell with mean 0 and variance 1."""
    if hasattr(readout, "feature_mean"):
        z = (features - readout.feature_mean) / readout.feature_std.clamp(min=1e-30)
        return torch.where(readout.feature_std > 0, z, 0)
    centred = features - features.mean(-1, keepdim=True)
    return centred / centred.square().mean(-1, keepdim=True).sqrt()


def code(y: float, x: float) -> list[float]:
    """The position code of one place: sines, then cosines, of π and 2π times both coordinates."""
    angles = [y * math.pi, y * 2 * math.pi, x * math.pi, x * 2 * math.pi]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def tokens_by_formula(readout: Any, features: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W, D' + 8): LayerNorm over [position code, standardised features], one cell after the other."""
    B, H, W, _ = features.shape
    rows = []
    for i in range(H):
        for j in range(W):
            (tall, wide), longer = readout.config.covered, max(size)
            y, x = (i + 0.5) * tall * size[0] / H / longer, (j + 0.5) * wide * size[1] / W / longer
            place = torch.tensor(code(y, x), dtype=features.dtype).expand(B, -1)
            rows.append(readout.norm(torch.cat([place, standardised(features[:, i, j], readout)], -1)))
    return torch.stack(rows, 1).unflatten(1, (H, W))


def enlarged(x_BCHW: Tensor, size: tuple[int, int], covered: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """(B, C, h, w): linear between the centres of cells that cover that share of each axis, constant beyond them."""
    axes = []
    for pixels, cells, share in zip(size, x_BCHW.shape[2:], covered, strict=True):
        places = (np.arange(pixels) + 0.5) / pixels / share * cells - 0.5
        axes.append(np.stack([np.interp(places, np.arange(cells), one) for one in np.eye(cells)], 1))
    rows, columns = (torch.from_numpy(weights).to(x_BCHW.dtype) for weights in axes)
    return torch.einsum("hr,wc,bdrc->bdhw", rows, columns, x_BCHW)


def decoded_by_formula(readout: Any, mixed_BRCV: Tensor) -> Tensor:
    """(B, D_out, 8R, 8C): MLP, CNN, and the bilinear skip."""
    x = readout.ffn(mixed_BRCV).permute(0, 3, 1, 2)
    entered = x = readout.cnn.entry(x)
    for block in readout.cnn.blocks:
        x = block.upsampling(block.convolution(x)).clamp(min=0)
    skip = readout.cnn.skip(nn.functional.interpolate(entered, scale_factor=8, mode="bilinear", align_corners=False))
    return readout.cnn.final(x) + skip


def check_gradients(readout: Readout, output: Tensor, expected: Tensor, reference: Readout) -> None:
    """The gradients of ``output`` in ``readout`` are those of ``expected`` in its float64 copy ``reference``."""
    weights = draw(*output.shape, seed=3)
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    largest = max(float(p.grad.abs().max()) for p in reference.parameters() if p.requires_grad)
    for (label, ours), theirs in zip(readout.named_parameters(), reference.parameters(), strict=True):
        if not ours.requires_grad:
            assert ours.grad is None, label
            continue
        scale = theirs.grad.abs().max().clamp(min=1e-2 * largest)  # one may be 0 but for rounding
        assert (ours.grad - theirs.grad).abs().max() < 1e-3 * scale, label


def check_nothing_is_dead(readout: Readout, output: Tensor, *, but: tuple[str, ...] = ()) -> None:
    """Every learnable parameter gets a gradient from the squared output."""
    output.square().sum().backward()
    for label, parameter in readout.named_parameters():
        if parameter.requires_grad and label not in but:
            assert parameter.grad.abs().max() > 1e-6, label
