"""Readouts: frozen feature volumes in, dense outputs out. Tensors only."""

from deapcache.readouts.building import (
    blank_readout,
    build_readout,
    canonical_readout,
    check_readout,
    learnable_parameters,
    needs_guidance,
    needs_upsampler,
    restore_readout,
)
from deapcache.readouts.config import READOUTS, Readout, ReadoutConfig, ReadoutEntry

__all__ = [
    "READOUTS",
    "Readout",
    "ReadoutConfig",
    "ReadoutEntry",
    "blank_readout",
    "build_readout",
    "canonical_readout",
    "check_readout",
    "learnable_parameters",
    "needs_guidance",
    "needs_upsampler",
    "restore_readout",
]
