"""Arithmetic on the device: preprocessing in float32, precision of the forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from deapcache.backbones.entries import Channels, Size
from deapcache.errors import UsageError

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions of the forward pass; TF32 is off in all of them."""


def check_precision(precision: str) -> str:
    """``precision`` if it is known; raises :class:`UsageError` otherwise."""
    if precision not in AUTOCAST:
        raise UsageError(f"unknown precision {precision!r}: choose one of {', '.join(AUTOCAST)}")
    return precision


def preprocess(images: Tensor, size: Size, mean: Channels, std: Channels) -> Tensor:
    """(B, h, w, 3) uint8 RGB to (B, 3, *size) float32, normalised, on the same device.

    Antialiased bicubic, clamped to [0, 1]: its overshoot is no colour. Images of that size are not resampled.
    """
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False).clamp_(0, 1)
    shift = torch.tensor(mean, device=pixels.device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels - shift) / scale


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """TF32 off, and autocast to ``precision`` on that device."""
    dtype = AUTOCAST[precision]
    cast = torch.autocast(device.type, dtype=dtype) if dtype else torch.autocast(device.type, enabled=False)
    with _without_tf32(), cast:
        yield


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    # torch rounds float32 convolutions on a GPU to TF32 unless told otherwise
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
