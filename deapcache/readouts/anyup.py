"""AnyUp: features of any backbone upsampled conditional on the image, then a linear map.

Wimmer et al., "AnyUp: universal feature upsampling", ICLR 2026. Code and weights are the authors', from torch.hub.

Shape legend: B batch, H and W feature grid, D' feature width, O output channels, h and w pixels.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deapcache.errors import MissingWeightsError, WeightsError
from deapcache.locations.http import socket_timeout
from deapcache.readouts.config import READOUTS, ReadoutConfig, ReadoutEntry
from deapcache.readouts.guided import GuidedReadout, normalised_images, weights_digest

HUB = "wimmerth/anyup"
MODEL = "anyup_multi_backbone"
"""The authors' model that was trained on several backbones, for use with any."""

_TIMEOUT_SECONDS = 8.0
"""How long a server may stay silent before the hub counts as unreachable."""


@dataclass(frozen=True, kw_only=True)
class AnyUpConfig(ReadoutConfig):
    """Architecture of :class:`AnyUp`; it has no CNN."""

    def build(self) -> AnyUp:
        """See :meth:`ReadoutConfig.build`; raises :class:`MissingWeightsError` where the hub is out of reach."""
        return AnyUp(self, load_upsampler())

    def blank(self) -> AnyUp:
        """See :meth:`ReadoutConfig.blank`: nothing is in the upsampler's place."""
        return AnyUp(self, nn.Identity())

    def restore(self, options: Mapping[str, Any]) -> AnyUp:
        """See :meth:`ReadoutConfig.restore`; raises :class:`WeightsError` where the hub's weights are others now.

        A trained readout may be a stranger's: it alone makes nobody fetch and run a hub's code. Raises
        :class:`MissingWeightsError` where that was not fetched before, as training one's own does.
        """
        if not _is_here():
            raise MissingWeightsError(
                f"readout anyup needs the code and weights of {HUB}, which torch.hub would fetch and run; a readout "
                f"that somebody trained is no reason to. Where you trust that repository, fetch it yourself: "
                f"python -c \"import torch; torch.hub.load('{HUB}', '{MODEL}')\""
            )
        readout = self.build()
        if readout.options["upsampler"] != options["upsampler"]:
            raise WeightsError(
                f"the readout was trained on the output of {HUB} with weights {options['upsampler']}, and the hub now "
                f"has {readout.options['upsampler']}: train it again"
            )
        return readout


class AnyUp(GuidedReadout):
    """The authors' upsampler, frozen, straight to the output size, and a linear map D' → D → D_out of what it gives.

    It is no part of the state: a hub's code cannot be kept in a file of tensors.

    Parameters
    ----------
    config
        The architecture.
    upsampler
        Called with normalised images (1, 3, h, w), features (1, D', H, W) and ``output_size``.
    """

    def __init__(self, config: AnyUpConfig, upsampler: nn.Module) -> None:
        super().__init__(config)
        # In a tuple, so that PyTorch does not take it for a part of this module.
        self._upsampler = (upsampler.eval().requires_grad_(False),)
        self.options = {
            "code_dim": config.code_dim,
            "hub": f"{HUB} {MODEL}",
            "upsampler": weights_digest(upsampler.state_dict()),
            "features": "as they are",
            "guidance": "base image",
        }

    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        """See :meth:`Readout.forward`; ``guidance`` is required.

        Image by image: upsampled features are D' numbers a pixel (154 MB for 768 at 224 × 224). They are computed again
        in the backward pass, not kept.
        """
        images_B3hw = normalised_images(guidance, len(features_BHWD), "anyup")
        features_BDHW = features_BHWD.float().permute(0, 3, 1, 2)
        self._upsampler[0].to(features_BHWD.device)
        weight = self.output.weight @ self.project.weight
        bias = self.output.weight @ self.project.bias + self.output.bias
        outputs = [
            checkpoint(self._map, features, image, output_size, weight, use_reentrant=False)
            for features, image in zip(features_BDHW.split(1), images_B3hw.split(1), strict=True)
        ]
        return (torch.cat(outputs) + bias[:, None, None]).float()

    def _map(self, features_1DHW: Tensor, image_13hw: Tensor, output_size: tuple[int, int], weight: Tensor) -> Tensor:
        """(1, O, h, w) for weight (O, D'), without the bias."""
        with torch.no_grad():
            upsampled_1Dhw = self._upsampler[0](image_13hw, features_1DHW, output_size=output_size)
        return F.conv2d(upsampled_1Dhw, weight[:, :, None, None])


def _is_here() -> bool:
    """Whether torch.hub has fetched the repository before: it keeps it as ``OWNER_NAME_BRANCH``."""
    return any(Path(torch.hub.get_dir()).glob(f"{HUB.replace('/', '_')}_*/hubconf.py"))


@functools.lru_cache(maxsize=1)
def load_upsampler() -> nn.Module:
    """The authors' upsampler from torch.hub, once a process; runs the repository's code.

    Raises :class:`MissingWeightsError` where it can be neither downloaded nor found in torch.hub's cache.
    """
    try:
        with torch.random.fork_rng(devices=[]), socket_timeout(_TIMEOUT_SECONDS), _stdout_on_stderr():
            upsampler: nn.Module = torch.hub.load(HUB, MODEL, trust_repo=True, verbose=False)
    except (
        Exception
    ) as error:  # network, file and import errors of torch.hub, and any that the repository's code raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingWeightsError(
            f"readout anyup needs the model {MODEL} of {HUB}, and torch.hub.load could not get it ({reason}): run it "
            f"once on a machine with network and copy its folder {torch.hub.get_dir()} here; without network there "
            "are bicubic, transposed-conv, linear and, with a checkpoint, featup"
        ) from None
    return upsampler


def _stdout_on_stderr() -> contextlib.redirect_stdout[TextIO]:
    """What torch.hub prints is no result."""
    return contextlib.redirect_stdout(sys.stderr)


READOUTS.add(
    "anyup",
    ReadoutEntry(
        summary="AnyUp's image-conditioned upsampling (from its torch.hub), then a linear map",
        config=AnyUpConfig,
        needs_guidance=True,
    ),
)
