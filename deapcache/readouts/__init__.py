"""Readouts: frozen feature volumes in, dense outputs out. Tensors only."""

from deapcache.readouts.base import (
    READOUTS,
    Readout,
    ReadoutConfig,
    ReadoutEntry,
    blank_readout,
    build_readout,
    canonical_readout,
    check_readout,
    learnable_parameters,
    needs_guidance,
    needs_upsampler,
    restore_readout,
)

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
