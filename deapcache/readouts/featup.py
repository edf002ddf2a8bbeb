"""FeatUp: features upsampled 16 times conditional on the image, then a linear map (section 4.2 of the paper).

Shape legend: B batch, H and W feature grid, D' feature width, D width of the linear map, O output channels, C channels
that are upsampled, h and w pixels.
"""

from __future__ import annotations

import hashlib
import math
import pickle
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deapcache.errors import MissingWeightsError, UsageError, WeightsError
from deapcache.readouts.base import Readout, StackedReadout
from deapcache.readouts.config import SIZES, ReadoutConfig


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors under ``state_dict``, on the CPU.

    Lightning keeps hyperparameters and callbacks beside the weights, as objects of classes that need not be installed
    here. PyTorch's weights-only reader, which calls nothing but what is on its list, gets a stand-in for each of them.

    Raises :class:`MissingWeightsError` where there is no file, :class:`WeightsError` where it is no such checkpoint.
    """
    if not path.is_file():
        raise MissingWeightsError(f"{path} is no file: give the checkpoint of an upsampler")
    try:
        others = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(_StandIn, name) for name in others]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} cannot be read as a torch checkpoint of tensors ({_reason(error)})") from None
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} is no Lightning checkpoint: it has no state_dict")
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def _reason(error: Exception) -> str:
    """One line; PyTorch puts what happened behind advice that would be bad advice here."""
    text = str(error).strip()
    if text.startswith("Weights only load failed"):
        _, _, text = text.partition("\n")
        text = text.rpartition("WeightsUnpickler error:")[2]
    return (text.strip() or type(error).__name__).splitlines()[0]


class _StandIn:
    """Whatever it stands in for, calling it gives an empty dictionary of a kind that the reader fills as it is told."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What both published upsamplers take images normalised by, whatever the backbone."""


class GuidedReadout(Readout):
    """Features upsampled conditional on the image by a published, frozen upsampler; then a linear map D' → D → D_out.

    Two maps without anything in between are one of rank D: it is as large as the readouts that it is compared to.
    """

    sizes = SIZES
    needs_guidance = True

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        self.project = nn.Linear(config.feature_dim, config.code_dim)
        self.output = nn.Linear(config.code_dim, config.out_channels)

    def set_output_bias(self, values: Tensor) -> None:
        """Start each channel's output at ``values`` (D_out,), in the last bias; the one before becomes 0."""
        with torch.no_grad():
            self.project.bias.zero_()
            self.output.bias.copy_(values)


def normalised_images(guidance: Tensor | None, batch: int, readout: str) -> Tensor:
    """(B, 3, h, w) float32, as the upsamplers take them, from base images (B, h, w, 3) uint8.

    Raises :class:`UsageError` where they are not given, or are not one an image.
    """
    if guidance is None:
        raise UsageError(
            f"readout {readout} is conditioned on the image: give the base images (B, h, w, 3) uint8 as guidance"
        )
    if guidance.dtype != torch.uint8 or guidance.ndim != 4 or guidance.shape[0] != batch or guidance.shape[3] != 3:
        raise UsageError(
            f"readout {readout}: guidance is {tuple(guidance.shape)} {guidance.dtype}, "
            f"expected base images ({batch}, h, w, 3) torch.uint8"
        )
    mean, std = (guidance.new_tensor(values, dtype=torch.float32) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((guidance / 255 - mean) / std).permute(0, 3, 1, 2)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """``sha256:…`` over name, dtype, shape and bytes of the tensors, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{values.dtype}\0{tuple(values.shape)}\0".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


RADIUS = 3
"""Of the window that a pixel is filtered from."""

DIAMETER = 2 * RADIUS + 1

FACTOR = 16
"""How much finer the output of the stack is than the features: four times two."""

CPU_STRIP = 8_192
"""Pixels whose filters a CPU makes together: their keys are 1 MB, and stay in its cache for the 49 taps."""

DEVICE_STRIP = 4_000_000
"""The same for an accelerator, which wants much work at once."""

_KEY_WIDTH = 32
_TEMPERATURE_RANGE = (1e-4, 1e4)
_LEAST_SUM = 1e-7
_CORRECTION = 0.1
"""Share of what the learned correction adds, to each kernel and to the output."""


class JointBilateralUpsampler(nn.Module):
    """Twice the resolution: bicubic upsampling, then a filter for each pixel that is computed from the image alone."""

    def __init__(self) -> None:
        super().__init__()
        taps = DIAMETER**2
        self.range_temp = nn.Parameter(torch.tensor(0.0))
        self.sigma_spatial = nn.Parameter(torch.tensor(1.0))
        self.range_proj = _two_layers(3, _KEY_WIDTH)
        self.fixup_proj = _two_layers(3 + taps, taps)

    def forward(self, source_BCHW: Tensor, image_B3hw: Tensor) -> Tensor:
        """(B, C, h, w) from (B, C, H, W) and an image of the wanted size; linear in the source, channel by channel."""
        coarse = F.interpolate(source_BCHW, image_B3hw.shape[2:], mode="bicubic", align_corners=False)
        return filter_locally(_padded(coarse), self.kernels(image_B3hw))

    def kernels(self, image_B3hw: Tensor) -> Tensor:
        """(B, P, h, w): the filter of each pixel, from similarity and distance, with a learned correction."""
        B, _, h, w = image_B3hw.shape
        keys_BKhw = self.range_proj(image_B3hw)
        padded = _padded(keys_BKhw)
        rows = max(1, (CPU_STRIP if image_B3hw.device.type == "cpu" else DEVICE_STRIP) // (B * w))
        strips = zip(keys_BKhw.split(rows, 2), image_B3hw.split(rows, 2), range(0, h, rows), strict=True)
        made = [self._kernels(padded[:, :, top:], keys, image) for keys, image, top in strips]
        return torch.cat(made, 2)

    def _kernels(self, padded_BKhw: Tensor, keys_BKhw: Tensor, image_B3hw: Tensor) -> Tensor:
        """Of some rows: keys from three rows above them on and columns on both sides, keys, and image of the rows."""
        # Similarity is the softmax over the window of the products of its keys with the pixel's own.
        windows = _windows(padded_BKhw[:, :, : keys_BKhw.shape[2] + 2 * RADIUS])
        products = torch.stack([(shifted * keys_BKhw).sum(1) for shifted in windows], 1)
        similarity = (self.range_temp.exp().clamp(*_TEMPERATURE_RANGE) * products).softmax(1)
        joint = similarity * self._closeness()
        joint = joint / joint.sum(1, keepdim=True).clamp(min=_LEAST_SUM)
        return joint + _CORRECTION * self.fixup_proj(torch.cat([joint, image_B3hw], 1))

    def _closeness(self) -> Tensor:
        """(1, P, 1, 1): a Gaussian of the distance within the window, whose corners are at (±1, ±1)."""
        sigma = self.sigma_spatial
        squares = torch.linspace(-1, 1, DIAMETER, dtype=sigma.dtype, device=sigma.device).square()
        distances = (squares[:, None] + squares).reshape(1, -1, 1, 1)
        return torch.exp(-distances / (2 * sigma**2))


class JointBilateralStack(nn.Module):
    """Layer norm of the features, four upsamplers in a row to 16 times the resolution, a last map of the channels.

    Fu et al., "FeatUp: a model-agnostic framework for features at any resolution", ICLR 2024, section 3.1. The
    arithmetic and the names in the state are those of the authors' published code and checkpoints, whose CUDA kernel
    :func:`filter_locally` stands for.

    Frozen. What comes between norm and last map is linear in the features and the same for all channels, so a caller
    who wants a projection of the output can project the input: see :class:`FeatUp`.
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(feature_dim)
        self.up1 = JointBilateralUpsampler()
        self.up2 = JointBilateralUpsampler()
        self.up3 = JointBilateralUpsampler()
        self.up4 = JointBilateralUpsampler()
        # The published module has dropout in front of it, which does nothing at inference but count in the names.
        self.fixup_proj = nn.Sequential(nn.Identity(), nn.Conv2d(feature_dim, feature_dim, 1))
        self.requires_grad_(False)

    def upsample(self, source_BCHW: Tensor, image_B3hw: Tensor) -> Tensor:
        """(B, C, 16 H, 16 W) for any number of channels: all of the stack but its last map."""
        for upsampler in (self.up1, self.up2, self.up3, self.up4):
            H, W = source_BCHW.shape[2:]
            source_BCHW = upsampler(source_BCHW, F.adaptive_avg_pool2d(image_B3hw, (2 * H, 2 * W)))
        return source_BCHW

    def last_map(self) -> tuple[Tensor, Tensor]:
        """Weight (D', D') and bias (D',) of the map that follows :meth:`upsample`: the identity and a correction."""
        convolution = self.fixup_proj[1]
        assert isinstance(convolution, nn.Conv2d)  # as made above
        assert convolution.bias is not None
        weight = convolution.weight.flatten(1)
        return torch.eye(len(weight)).to(weight) + _CORRECTION * weight, _CORRECTION * convolution.bias


def filter_locally(padded_BCHW: Tensor, kernels_BPhw: Tensor) -> Tensor:
    """(B, C, h, w): each pixel is the sum of its window in ``padded`` (B, C, h + 6, w + 6), weighted by its kernel.

    All channels share the kernel. Differentiable once, in ``padded`` only: the kernels are constants here.
    """
    filtered: Tensor = _LocalFilter.apply(padded_BCHW, kernels_BPhw)
    return filtered


class _LocalFilter(torch.autograd.Function):
    """Tap by tap: unfolding would hold 49 copies of the source."""

    @staticmethod
    def forward(ctx: Any, padded_BCHW: Tensor, kernels_BPhw: Tensor) -> Tensor:
        ctx.save_for_backward(kernels_BPhw)
        (B, C), (h, w) = padded_BCHW.shape[:2], kernels_BPhw.shape[2:]
        filtered = padded_BCHW.new_zeros(B, C, h, w)
        for window, kernel_Bhw in zip(_windows(padded_BCHW), kernels_BPhw.unbind(1), strict=True):
            filtered.addcmul_(window, kernel_Bhw[:, None])
        return filtered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BChw: Tensor) -> tuple[Tensor, None]:
        (kernels_BPhw,) = ctx.saved_tensors
        B, C, h, w = gradient_BChw.shape
        gradient = gradient_BChw.new_zeros(B, C, h + 2 * RADIUS, w + 2 * RADIUS)
        for window, kernel_Bhw in zip(_windows(gradient), kernels_BPhw.unbind(1), strict=True):
            window.addcmul_(gradient_BChw, kernel_Bhw[:, None])
        return gradient, None


def _windows(padded: Tensor) -> Iterator[Tensor]:
    """The P shifted views (..., h, w) of (..., h + 6, w + 6), row by row."""
    h, w = (side - 2 * RADIUS for side in padded.shape[-2:])
    for row in range(DIAMETER):
        for column in range(DIAMETER):
            yield padded[..., row : row + h, column : column + w]


def _padded(x: Tensor) -> Tensor:
    return F.pad(x, [RADIUS] * 4, mode="reflect")


def _two_layers(in_channels: int, out_channels: int) -> nn.Sequential:
    # The third module stands where the published ones have dropout, so that the names are theirs.
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1), nn.GELU(), nn.Identity(), nn.Conv2d(out_channels, out_channels, 1)
    )


PUBLISHED = "dino16, dinov2 and vit (ViT-S, D' = 384), clip and maskclip (D' = 512), resnet50 (D' = 2048)"
"""What the authors trained upsamplers for: https://github.com/mhamilton723/FeatUp."""

_IN_FILE = "upsampler."
"""Where a published checkpoint keeps the stack."""

_NORM_IN_FILE = "model.1.norm."
"""Where it keeps the layer norm of the features, if at all: it was never trained."""

_PIXELS_AT_ONCE = 400_000
"""Output pixels of the stack that are computed together: filters and their making take 1 kB a pixel."""


class FeatUp(GuidedReadout, StackedReadout):
    """The authors' stack of joint bilateral upsamplers, frozen, and a linear map D' → D → D_out of its output.

    But for its last map the stack treats all channels alike, so everything linear goes before it: the same function as
    mapping the upsampled features, with min(D, D_out) channels to upsample in place of D'. Biases come last.
    """

    needs_upsampler = True
    features_as_published = "layer norm as published"

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        self.upsampler = JointBilateralStack(config.feature_dim)
        self.options = {
            "code_dim": config.code_dim,
            "factor": FACTOR,
            "features": self.features_option,
            "guidance": f"base image, bicubic to {FACTOR} pixels a cell where it is smaller",
            "resizing": "bilinear",
        }

    def load_upsampler(self, checkpoint: Path | None) -> None:
        """Load a published checkpoint, made for the backbone that the features are from.

        Raises :class:`UsageError` without one, :class:`WeightsError` where it is none, or for another feature width.
        """
        if checkpoint is None:
            raise UsageError(
                f"readout featup needs its upsampler's published checkpoint for the backbone (there are {PUBLISHED}): "
                "get NAME_jbu_stack_cocostuff.ckpt from https://github.com/mhamilton723/FeatUp and give it with "
                "--upsampler FILE; for other backbones there is linear"
            )
        found = read_state(checkpoint)
        state = {f"norm.{key}": value for key, value in self.upsampler.norm.state_dict().items()}
        for prefix, ours in ((_NORM_IN_FILE, "norm."), (_IN_FILE, "")):
            state |= {ours + key.removeprefix(prefix): t for key, t in found.items() if key.startswith(prefix)}
        _check(checkpoint, state, self.upsampler.state_dict(), self.config.feature_dim)
        self.upsampler.load_state_dict(state)
        self.options["upsampler"] = weights_digest(self.upsampler.state_dict())

    def restore(self, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        """The upsampler's weights come with the state."""
        self.options = dict(options)
        super().restore(options, state)

    def stack_key(self) -> Hashable:
        """Members share the upsampler: nearly all of the work is making its filters."""
        return self.options.get("upsampler"), self.config

    @classmethod
    def forward_stacked(
        cls,
        members: Sequence[Self],
        features_BHWD: Tensor,
        output_size: tuple[int, int],
        guidance: Tensor | None = None,
    ) -> list[Tensor]:
        B, H, W, _ = features_BHWD.shape
        images_B3hw = normalised_images(guidance, B, "featup")
        # At least as fine as the stack's output, as the backbone's own view of a base image would be.
        covered = members[0].config.covered
        needed = math.ceil(FACTOR * H / covered[0]), math.ceil(FACTOR * W / covered[1])
        size = max(images_B3hw.shape[2], needed[0]), max(images_B3hw.shape[3], needed[1])
        if images_B3hw.shape[2:] != size:
            images_B3hw = F.interpolate(images_B3hw, size, mode="bicubic", align_corners=False)
        images_B3hw = images_B3hw[:, :, : round(covered[0] * size[0]), : round(covered[1] * size[1])]
        with torch.autocast(features_BHWD.device.type, enabled=False):
            maps = [member._linear() for member in members]
            befores = [before for before, _, _ in maps]
            weight_CD, upsampler = torch.cat(befores), members[0].upsampler
            normed_BHWD = upsampler.norm(members[0].standardise(features_BHWD).to(weight_CD.dtype))
            narrow_BCHW = F.linear(normed_BHWD, weight_CD).permute(0, 3, 1, 2)
            together = max(1, _PIXELS_AT_ONCE // (FACTOR**2 * H * W))
            images = images_B3hw.to(weight_CD.dtype).split(together)
            pairs = zip(narrow_BCHW.split(together), images, strict=True)
            fine_BCHW = torch.cat([upsampler.upsample(narrow, some) for narrow, some in pairs])
            fine_BChw = members[0].resize(fine_BCHW, output_size)
            outputs = []
            parts = fine_BChw.split([len(before) for before in befores], 1)
            for part_BChw, (_, after, bias_O) in zip(parts, maps, strict=True):
                mapped = part_BChw if after is None else F.conv2d(part_BChw, after[:, :, None, None])
                outputs.append((mapped + bias_O[:, None, None]).float())
            return outputs

    def _linear(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """What goes before (C, D') and, where D < D_out, after (O, C) the upsampling, and the bias (O,) of it all."""
        weight, bias = self.upsampler.last_map()
        inner = self.project.weight @ weight
        all_bias = self.output.weight @ (self.project.weight @ bias + self.project.bias) + self.output.bias
        if self.config.code_dim < self.config.out_channels:
            return inner, self.output.weight, all_bias
        return self.output.weight @ inner, None, all_bias


def _check(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], feature_dim: int) -> None:
    if missing := sorted(expected.keys() - found.keys()):
        raise WeightsError(
            f"{path} is no checkpoint of FeatUp's upsampler: it lacks {_IN_FILE}{missing[0]}"
            f"{f' and {len(missing) - 1} more' if missing[1:] else ''}; there are ones for {PUBLISHED}"
        )
    width = found["fixup_proj.1.weight"].shape[0]
    if width != feature_dim:
        raise WeightsError(
            f"{path} upsamples features of width {width}, these have {feature_dim}: give the checkpoint that was made "
            f"for the backbone; there are ones for {PUBLISHED}"
        )
    for key in sorted(expected):
        if found[key].shape != expected[key].shape:
            raise WeightsError(
                f"{path} is no checkpoint of FeatUp's upsampler: {_IN_FILE}{key} is {tuple(found[key].shape)}, "
                f"expected {tuple(expected[key].shape)}"
            )
