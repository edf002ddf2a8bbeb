"""FeatUp: features upsampled 16 times conditional on the image, then a linear map (section 4.2 of the paper).

Shape legend: B batch, H and W feature grid, D' feature width, D width of the linear map, O output channels, C channels
that are upsampled, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deapcache.errors import UsageError, WeightsError
from deapcache.readouts.config import READOUTS, Readout, ReadoutConfig, ReadoutEntry
from deapcache.readouts.guided import GuidedReadout, normalised_images, weights_digest
from deapcache.readouts.joint_bilateral import FACTOR, JointBilateralStack
from deapcache.readouts.lightning import read_state

PUBLISHED = "dino16, dinov2 and vit (ViT-S, D' = 384), clip and maskclip (D' = 512), resnet50 (D' = 2048)"
"""What the authors trained upsamplers for: https://github.com/mhamilton723/FeatUp."""

_IN_FILE = "upsampler."
"""Where a published checkpoint keeps the stack."""

_NORM_IN_FILE = "model.1.norm."
"""Where it keeps the layer norm of the features, if at all: it was never trained."""

_PIXELS_AT_ONCE = 400_000
"""Output pixels of the stack that are computed together: filters and their making take 1 kB a pixel."""


@dataclass(frozen=True, kw_only=True)
class FeatUpConfig(ReadoutConfig):
    """Architecture of :class:`FeatUp`; it has no CNN."""

    upsampler: Path | None = None
    """Published checkpoint for the backbone that the features are from."""

    def build(self) -> FeatUp:
        """See :meth:`ReadoutConfig.build`; raises :class:`UsageError` without a file, else :class:`WeightsError`."""
        if self.upsampler is None:
            raise UsageError(
                f"readout featup needs its upsampler's published checkpoint for the backbone (there are {PUBLISHED}): "
                "get NAME_jbu_stack_cocostuff.ckpt from https://github.com/mhamilton723/FeatUp and give it with "
                "--upsampler FILE; for other backbones there are anyup and linear"
            )
        readout = self.blank()
        readout.load_upsampler(self.upsampler)
        return readout

    def blank(self) -> FeatUp:
        """See :meth:`ReadoutConfig.blank`: the upsampler is there, its weights are random."""
        return FeatUp(self)

    def restore(self, options: Mapping[str, Any]) -> FeatUp:
        """See :meth:`ReadoutConfig.restore`: the upsampler's weights come with the state."""
        readout = self.blank()
        readout.options = dict(options)
        return readout


class FeatUp(GuidedReadout):
    """The authors' stack of joint bilateral upsamplers, frozen, and a linear map D' → D → D_out of its output.

    But for its last map the stack treats all channels alike, so everything linear goes before it: the same function as
    mapping the upsampled features, with min(D, D_out) channels to upsample in place of D'. Biases come last.
    """

    def __init__(self, config: FeatUpConfig) -> None:
        super().__init__(config)
        self.config = config
        self.upsampler = JointBilateralStack(config.feature_dim)
        self.options = {
            "code_dim": config.code_dim,
            "factor": FACTOR,
            "features": "layer norm as published",
            "guidance": f"base image, bicubic to {FACTOR} pixels a cell where it is smaller",
            "resizing": "bilinear",
        }

    def load_upsampler(self, path: Path) -> None:
        """Load a published checkpoint; raises :class:`WeightsError` where it is none, or for another feature width."""
        found = read_state(path)
        state = {f"norm.{key}": value for key, value in self.upsampler.norm.state_dict().items()}
        for prefix, ours in ((_NORM_IN_FILE, "norm."), (_IN_FILE, "")):
            state |= {ours + key.removeprefix(prefix): t for key, t in found.items() if key.startswith(prefix)}
        _check(path, state, self.upsampler.state_dict(), self.config.feature_dim)
        self.upsampler.load_state_dict(state)
        self.options["upsampler"] = weights_digest(self.upsampler.state_dict())

    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        """See :meth:`Readout.forward`; ``guidance`` is required."""
        return self.forward_stacked([self], features_BHWD, output_size, guidance)[0]

    def stack_key(self) -> Hashable:
        """Members share the upsampler: nearly all of the work is making its filters."""
        config = self.config
        return self.options.get("upsampler"), config.feature_dim, config.code_dim, config.out_channels

    @classmethod
    def forward_stacked(
        cls,
        members: Sequence[Readout],
        features_BHWD: Tensor,
        output_size: tuple[int, int],
        guidance: Tensor | None = None,
    ) -> list[Tensor]:
        """See :meth:`Readout.forward_stacked`."""
        ours = [member for member in members if isinstance(member, FeatUp)]
        images_B3hw = _images(features_BHWD, guidance)
        with torch.autocast(features_BHWD.device.type, enabled=False):
            maps = [member._linear() for member in ours]
            befores = [before for before, _, _ in maps]
            fine_BCHW = ours[0]._upsampled(features_BHWD, images_B3hw, torch.cat(befores))
            fine_BChw = F.interpolate(fine_BCHW, output_size, mode="bilinear", align_corners=False)
            parts = fine_BChw.split([len(before) for before in befores], 1)
            return [_finished(part, after, bias) for part, (_, after, bias) in zip(parts, maps, strict=True)]

    def _upsampled(self, features_BHWD: Tensor, images_B3hw: Tensor, weight_CD: Tensor) -> Tensor:
        """(B, C, 16 H, 16 W): the normalised features mapped to C channels, and those upsampled."""
        _, H, W, _ = features_BHWD.shape
        narrow_BHWC = F.linear(self.upsampler.norm(features_BHWD.to(weight_CD.dtype)), weight_CD)
        together = max(1, _PIXELS_AT_ONCE // (FACTOR**2 * H * W))
        images = images_B3hw.to(weight_CD.dtype).split(together)
        pairs = zip(narrow_BHWC.permute(0, 3, 1, 2).split(together), images, strict=True)
        return torch.cat([self.upsampler.upsample(narrow, some) for narrow, some in pairs])

    def _linear(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """What goes before (C, D') and, where D < D_out, after (O, C) the upsampling, and the bias (O,) of it all."""
        weight, bias = self.upsampler.last_map()
        inner = self.project.weight @ weight
        all_bias = self.output.weight @ (self.project.weight @ bias + self.project.bias) + self.output.bias
        if self.config.code_dim < self.config.out_channels:
            return inner, self.output.weight, all_bias
        return self.output.weight @ inner, None, all_bias


def _images(features_BHWD: Tensor, guidance: Tensor | None) -> Tensor:
    """(B, 3, h, w), at least as fine as the stack's output, as the backbone's own view of a base image would be."""
    B, H, W, _ = features_BHWD.shape
    images = normalised_images(guidance, B, "featup")
    h, w = images.shape[2:]
    size = max(h, FACTOR * H), max(w, FACTOR * W)
    return images if size == (h, w) else F.interpolate(images, size, mode="bicubic", align_corners=False)


def _finished(fine_BChw: Tensor, after_OC: Tensor | None, bias_O: Tensor) -> Tensor:
    output = fine_BChw if after_OC is None else F.conv2d(fine_BChw, after_OC[:, :, None, None])
    return (output + bias_O[:, None, None]).float()


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


READOUTS.add(
    "featup",
    ReadoutEntry(
        summary="baseline: FeatUp's image-conditioned upsampling (--upsampler FILE), then a linear map",
        config=FeatUpConfig,
        needs_guidance=True,
        needs_upsampler=True,
    ),
)
