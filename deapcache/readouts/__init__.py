"""Readouts: frozen feature volumes in, dense outputs out. Tensors only."""

from deapcache.readouts.base import (
    READOUTS,
    SIZES,
    Readout,
    ReadoutConfig,
    ReadoutEntry,
    blank_readout,
    build_readout,
    canonical_readout,
    is_training_free,
    learnable_parameters,
    needs_guidance,
    needs_layers,
    needs_upsampler,
    restore_readout,
    seeded,
    variant,
)
from deapcache.readouts.baselines import Bicubic, Linear, LinearBN, Transposed
from deapcache.readouts.deap import Deap
from deapcache.readouts.featup import FeatUp, GuidedReadout, normalised_images, weights_digest
from deapcache.readouts.multi_scale import MultiScale
from deapcache.readouts.neighbours import Neighbours

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
    "is_training_free",
    "learnable_parameters",
    "needs_guidance",
    "needs_layers",
    "needs_upsampler",
    "normalised_images",
    "restore_readout",
    "seeded",
    "variant",
    "weights_digest",
]

READOUTS["deap"] = Deap
# the ablations of Table 5
READOUTS["8-dim"] = variant(Deap, "ablation of deap: D = 8, the same as deap:8", size=8)
READOUTS["no-sigma"] = variant(Deap, "ablation of deap: attention without Gaussian masks", mask=False)
READOUTS["no-indiv-sigma"] = variant(Deap, "ablation of deap: one width of the mask for all heads", shared_sigma=True)
READOUTS["only-mask"] = variant(
    Deap, "ablation of deap: attention by the mask alone, without queries and keys", content=False
)
# the baselines of section 4.2, and the field's
READOUTS["bicubic"] = Bicubic
READOUTS["transposed-conv"] = Transposed
READOUTS["linear"] = Linear
READOUTS["linear-bn"] = LinearBN
READOUTS["knn"] = Neighbours
READOUTS["multi-scale"] = MultiScale
READOUTS["featup"] = FeatUp
