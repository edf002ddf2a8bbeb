"""Readouts: frozen feature volumes in, dense outputs out. Tensors only."""

from deapcache.readouts.config import READOUTS, Readout, ReadoutConfig, ReadoutEntry, build_readout

__all__ = ["READOUTS", "Readout", "ReadoutConfig", "ReadoutEntry", "build_readout"]
