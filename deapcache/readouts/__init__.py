"""Readouts: frozen feature volumes in, dense outputs out. Tensors only.

Naming and describing a readout imports no torch; building one does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from deapcache.readouts.config import SIZES, ReadoutConfig
from deapcache.readouts.registry import (
    READOUTS,
    ReadoutEntry,
    ReadoutSpec,
    blank_readout,
    build_readout,
    canonical_readout,
    learnable_parameters,
    readout_entry,
    restore_readout,
    seeded,
    variant,
)

if TYPE_CHECKING:
    from deapcache.readouts.base import Readout
    from deapcache.readouts.featup import GuidedReadout, normalised_images, weights_digest

__all__ = [
    "READOUTS",
    "SIZES",
    "GuidedReadout",
    "Readout",
    "ReadoutConfig",
    "ReadoutEntry",
    "blank_readout",
    "build_readout",
    "canonical_readout",
    "learnable_parameters",
    "normalised_images",
    "readout_entry",
    "restore_readout",
    "seeded",
    "variant",
    "weights_digest",
]

_WITH_TORCH = {"base": ("Readout",), "featup": ("GuidedReadout", "normalised_images", "weights_digest")}
"""Module → the names in it that need torch, which takes seconds to import."""


def __getattr__(name: str) -> Any:
    for module, names in _WITH_TORCH.items():
        if name in names:
            return getattr(importlib.import_module(f"deapcache.readouts.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_DEAP = ReadoutSpec("deap:Deap", "dense attentive probing, the paper's readout", sizes=SIZES)
READOUTS["deap"] = _DEAP
# the ablations of Table 5
READOUTS["8-dim"] = variant(_DEAP, "ablation of deap: D = 8, the same as deap:8", size=8)
READOUTS["no-sigma"] = variant(_DEAP, "ablation of deap: attention without Gaussian masks", mask=False)
READOUTS["no-indiv-sigma"] = variant(_DEAP, "ablation of deap: one width of the mask for all heads", shared_sigma=True)
READOUTS["only-mask"] = variant(
    _DEAP, "ablation of deap: attention by the mask alone, without queries and keys", content=False
)
# the baselines of section 4.2, and the field's
READOUTS["bicubic"] = ReadoutSpec(
    "baselines:Bicubic", "baseline: projection and bicubic interpolation, then deap's MLP and CNN", sizes=SIZES
)
READOUTS["transposed-conv"] = ReadoutSpec(
    "baselines:Transposed", "baseline: one transposed convolution, then deap's MLP and CNN", sizes=SIZES
)
READOUTS["linear"] = ReadoutSpec("baselines:Linear", "yardstick: one linear map of each cell, upsampled")
READOUTS["linear-bn"] = ReadoutSpec(
    "baselines:LinearBN", "yardstick: batch norm and one linear map of each cell, as DINOv2's and DINOv3's heads"
)
READOUTS["knn"] = ReadoutSpec(
    "neighbours:Neighbours",
    "yardstick: training-free, labels of the 30 nearest training cells, as Hummingbird",
    training_free=True,
)
READOUTS["multi-scale"] = ReadoutSpec(
    "baselines:MultiScale",
    "yardstick: convolutional decoder over several layers (--layers), as DPT's and probe3d's",
    needs_layers=True,
)
READOUTS["featup"] = ReadoutSpec(
    "featup:FeatUp",
    "baseline: FeatUp's image-conditioned upsampling (--upsampler FILE), then a linear map",
    sizes=SIZES,
    needs_guidance=True,
    needs_upsampler=True,
)
