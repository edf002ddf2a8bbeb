"""A readout from outside of deapcache: AnyUp, features of any backbone upsampled conditional on the image.

deapcache probe --plugin anyup.py --readout anyup,bicubic --task boundaries

Wimmer et al., "AnyUp: universal feature upsampling", ICLR 2026. Code and weights are the authors', from torch.hub:
training this readout fetches and runs that code. A plugin's source is part of the protocol of its results.

Shape legend: B batch, H and W feature grid, D' feature width, O output channels, h and w pixels.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deapcache.errors import MissingWeightsError, WeightsError
from deapcache.readouts import READOUTS, GuidedReadout, ReadoutConfig, normalised_images, weights_digest

HUB = "wimmerth/anyup"
MODEL = "anyup_multi_backbone"
"""The authors' model that was trained on several backbones, for use with any."""

TIMEOUT_SECONDS = 8.0
"""How long a server may send nothing before the hub counts as unreachable."""


class AnyUp(GuidedReadout):
    """The authors' upsampler, frozen, straight to the output size, and a linear map D' → D → D_out of what it gives."""

    summary = "AnyUp's image-conditioned upsampling (from its torch.hub), then a linear map"
    features_as_published = "as they are"

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        # In a tuple, so that PyTorch does not take it for a part of the state: a file of tensors cannot hold its code.
        self._upsampler: tuple[nn.Module] = (nn.Identity(),)

    def load_upsampler(self, checkpoint: Path | None) -> None:
        """Load it from the hub; raises :class:`MissingWeightsError` where that is out of reach."""
        upsampler = fetch_upsampler()
        self._upsampler = (upsampler.eval().requires_grad_(False),)
        self.options = {
            "code_dim": self.config.code_dim,
            "hub": f"{HUB} {MODEL}",
            "upsampler": weights_digest(upsampler.state_dict()),
            "features": self.features_option,
            "guidance": "base image",
        }

    def restore(self, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        """Take a trained readout's state; its linear map alone is in it.

        It may be a stranger's, which is no reason to fetch and run a hub's code: raises :class:`MissingWeightsError`
        where that was not fetched before, and :class:`WeightsError` where the hub's weights are others now.
        """
        if not any(Path(torch.hub.get_dir()).glob(f"{HUB.replace('/', '_')}_*/hubconf.py")):
            raise MissingWeightsError(
                f"readout anyup needs the code and weights of {HUB}, which torch.hub would fetch and run; a readout "
                f"that somebody trained is no reason to. Where you trust that repository, fetch it yourself: "
                f"python -c \"import torch; torch.hub.load('{HUB}', '{MODEL}')\""
            )
        self.load_upsampler(None)
        if self.options["upsampler"] != options["upsampler"]:
            raise WeightsError(
                f"the readout was trained on the output of {HUB} with weights {options['upsampler']}, and the hub now "
                f"has {self.options['upsampler']}: train it again"
            )
        super().restore(options, state)

    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        """See :meth:`deapcache.readouts.Readout.forward`; ``guidance`` is required.

        Image by image: upsampled features are D' numbers a pixel (154 MB for 768 at 224 × 224). They are computed again
        in the backward pass, not kept.
        """
        images_B3hw = normalised_images(guidance, len(features_BHWD), "anyup")
        covered = self.config.covered  # where cells see only a part of the image, it is upsampled and continued
        height, width = (round(share * side) for share, side in zip(covered, images_B3hw.shape[2:], strict=True))
        images_B3hw = images_B3hw[:, :, :height, :width]
        features_BDHW = self.standardise(features_BHWD).permute(0, 3, 1, 2)
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
        part = [round(share * side) for share, side in zip(self.config.covered, output_size, strict=True)]
        with torch.no_grad():
            upsampled_1Dhw = self._upsampler[0](image_13hw, features_1DHW, output_size=tuple(part))
        output_1Ohw = F.conv2d(upsampled_1Dhw, weight[:, :, None, None])
        return F.pad(output_1Ohw, (0, output_size[1] - part[1], 0, output_size[0] - part[0]), mode="replicate")


@functools.lru_cache(maxsize=1)
def fetch_upsampler() -> nn.Module:
    """The authors' upsampler from torch.hub, once a process; runs the repository's code.

    Raises :class:`MissingWeightsError` where it can be neither downloaded nor found in torch.hub's cache.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        # what torch.hub prints is no result
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(sys.stderr):
            upsampler: nn.Module = torch.hub.load(HUB, MODEL, trust_repo=True, verbose=False)
    except Exception as error:  # network, file and import errors of torch.hub, and any of the repository's code
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingWeightsError(
            f"readout anyup needs the model {MODEL} of {HUB}, and torch.hub.load could not get it ({reason}): run it "
            f"once on a machine with network and copy its folder {torch.hub.get_dir()} here; without network there "
            "are bicubic, transposed-conv, linear and, with a checkpoint, featup"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    return upsampler


READOUTS["anyup"] = AnyUp
