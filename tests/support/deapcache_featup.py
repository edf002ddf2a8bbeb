"""FeatUp's upsampler as its authors publish it: a checkpoint of random weights, and the arithmetic written plainly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from deapcache_readouts import FEATURE_DIM
from torch import Tensor


def published_state(feature_dim: int = FEATURE_DIM, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names, and in the shapes, of FeatUp's own ``JBUStack``."""
    generator = torch.Generator().manual_seed(seed)

    def layer(name: str, outputs: int, inputs: int) -> dict[str, Tensor]:
        weight = torch.randn(outputs, inputs, 1, 1, generator=generator) / math.sqrt(inputs)
        return {f"{name}.weight": weight, f"{name}.bias": 0.3 * torch.randn(outputs, generator=generator)}

    state = {}
    for i in (1, 2, 3, 4):
        state[f"up{i}.range_temp"] = 0.3 * torch.randn((), generator=generator)
        state[f"up{i}.sigma_spatial"] = 1 + 0.2 * torch.rand((), generator=generator)
        state |= layer(f"up{i}.range_proj.0", 32, 3) | layer(f"up{i}.range_proj.3", 32, 32)
        state |= layer(f"up{i}.fixup_proj.0", 49, 52) | layer(f"up{i}.fixup_proj.3", 49, 49)
    return state | layer("fixup_proj.1", feature_dim, feature_dim)


def write_published(path: Path, state: Mapping[str, Tensor] | None = None, **beside: Any) -> Path:
    """A Lightning checkpoint as FeatUp's authors publish them, and what else is to be in it."""
    stack = published_state() if state is None else state
    ours = {f"upsampler.{name}": tensor for name, tensor in stack.items()}
    others = {"model.0.cls_token": torch.zeros(1, 1, 4), "scale_net.net.bias": torch.zeros(1)}
    torch.save({"epoch": 3, "state_dict": {**others, **ours}, **beside}, path)
    return path


def windows(x: Tensor) -> Tensor:
    """(B, C, 49, h, w): the 7 × 7 window of each pixel, reflected at the edges."""
    B, C, h, w = x.shape
    return F.unfold(F.pad(x, [3] * 4, mode="reflect"), 7).view(B, C, 49, h, w)


def two_layers(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    hidden = F.gelu(F.conv2d(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"]))
    return F.conv2d(hidden, state[f"{name}.3.weight"], state[f"{name}.3.bias"])


def upsampled_by_formula(state: Mapping[str, Tensor], source: Tensor, image: Tensor) -> Tensor:
    """What the authors' ``JBUStack`` computes, less dropout and its last map."""
    for i in (1, 2, 3, 4):
        guide = F.adaptive_avg_pool2d(image, (2 * source.shape[2], 2 * source.shape[3]))
        keys = two_layers(state, f"up{i}.range_proj", guide)
        temperature = state[f"up{i}.range_temp"].exp().clamp(1e-4, 1e4)
        similarity = (temperature * torch.einsum("bkphw,bkhw->bphw", windows(keys), keys)).softmax(1)
        y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, 7, dtype=source.dtype)], indexing="ij")
        closeness = torch.exp(-(x**2 + y**2) / (2 * state[f"up{i}.sigma_spatial"] ** 2)).view(1, 49, 1, 1)
        kernel = similarity * closeness
        kernel = kernel / kernel.sum(1, keepdim=True).clamp(min=1e-7)
        kernel = kernel + 0.1 * two_layers(state, f"up{i}.fixup_proj", torch.cat([kernel, guide], 1))
        coarse = F.interpolate(source, guide.shape[2:], mode="bicubic", align_corners=False)
        source = torch.einsum("bcphw,bphw->bchw", windows(coarse), kernel)
    return source
