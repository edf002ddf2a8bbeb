"""Readouts by name: fresh ones and trained ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deapcache.errors import UsageError
from deapcache.readouts.config import DEFAULT_SIZE, READOUTS, Readout, ReadoutConfig, ReadoutEntry


def check_readout(name: str) -> None:
    """Raise what :func:`build_readout` raises for a wrong name."""
    _parse(name)


def canonical_readout(name: str) -> str:
    """The one name of a readout that has two: ``deap:16`` is ``deap``."""
    base, _, size = _parse(name)
    return base if size in (None, DEFAULT_SIZE) else f"{base}:{size}"


def needs_guidance(name: str) -> bool:
    """Whether the readout of that name is conditioned on the base images."""
    return _parse(name)[1].needs_guidance


def needs_upsampler(name: str) -> bool:
    """Whether :func:`build_readout` must be given the checkpoint of a published upsampler for it."""
    return _parse(name)[1].needs_upsampler


def learnable_parameters(
    name: str, *, feature_dim: int, out_channels: int, grid: tuple[int, int], cnn_width: int | None = None
) -> int:
    """Learnable parameters of a readout, counted from its modules; needs neither file nor network.

    Raises what :func:`build_readout` raises for a wrong name.
    """
    readout = blank_readout(name, feature_dim=feature_dim, out_channels=out_channels, grid=grid, cnn_width=cnn_width)
    return sum(parameter.numel() for parameter in readout.parameters() if parameter.requires_grad)


def blank_readout(
    name: str, *, feature_dim: int, out_channels: int, grid: tuple[int, int], cnn_width: int | None = None
) -> Readout:
    """A readout like those that :func:`build_readout` gives, on the CPU, with random numbers for what comes from files.

    Raises what :func:`build_readout` raises for a wrong name.
    """
    with _seeded(0):
        return _config(name, feature_dim, out_channels, grid, cnn_width, None).blank()


def build_readout(
    name: str,
    *,
    feature_dim: int,
    out_channels: int,
    grid: tuple[int, int],
    cnn_width: int | None = None,
    seed: int,
    upsampler: Path | None = None,
) -> Readout:
    """A freshly initialised readout on the CPU, the same for the same arguments.

    Leaves PyTorch's global random state as it was.

    Parameters
    ----------
    name
        One of ``READOUTS.names()``, or ``NAME:D`` with D one of the entry's sizes.
    feature_dim, out_channels
        D' of the features and D_out of the task.
    grid
        (H, W) of the features.
    cnn_width
        Channels of the CNN; ``None``: the readout's own rule.
    seed
        Of the initialisation.
    upsampler
        Checkpoint of a published upsampler; readouts without one leave it unread.

    Raises
    ------
    UnknownNameError
        No readout of that name; offers the nearest names.
    UsageError
        A size that there is not, a readout without sizes, or one that lacks its upsampler.
    WeightsError
        The upsampler's checkpoint cannot be read, or was made for another feature width.
    """
    config = _config(name, feature_dim, out_channels, grid, cnn_width, upsampler)
    with _seeded(seed):
        return config.build()


def restore_readout(
    name: str,
    *,
    feature_dim: int,
    out_channels: int,
    grid: tuple[int, int],
    cnn_width: int | None = None,
    options: Mapping[str, Any],
    state: Mapping[str, Tensor],
) -> Readout:
    """A trained readout on the CPU, in evaluation mode, from its ``options`` and its state dict.

    Needs no checkpoint of an upsampler: that is part of the state. The exception is ``anyup``, whose code and weights
    are its hub's. Raises what :func:`build_readout` raises.
    """
    config = _config(name, feature_dim, out_channels, grid, cnn_width, None)
    with _seeded(0):
        readout = config.restore(options)
    readout.load_state_dict(state)
    return readout.eval()


def _config(
    name: str,
    feature_dim: int,
    out_channels: int,
    grid: tuple[int, int],
    cnn_width: int | None,
    upsampler: Path | None,
) -> ReadoutConfig:
    _, entry, size = _parse(name)
    more: dict[str, Any] = {} if size is None else {"code_dim": size}
    if entry.needs_upsampler:
        more["upsampler"] = upsampler
    return entry.config(feature_dim=feature_dim, out_channels=out_channels, grid=grid, cnn_width=cnn_width, **more)


def _parse(name: str) -> tuple[str, ReadoutEntry, int | None]:
    """Base name, entry and D; ``None`` where the name carries no D."""
    base, colon, size = name.partition(":")
    entry = READOUTS.get(base)
    if not colon:
        return base, entry, None
    if not entry.sizes:
        raise UsageError(f"readout {name!r}: {base} comes in one size; leave out ':{size}'")
    if size not in map(str, entry.sizes):
        known = ", ".join(map(str, entry.sizes))
        raise UsageError(f"readout {name!r}: the size after the colon is {size!r}, expected one of {known}")
    return base, entry, int(size)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """PyTorch's global CPU generator freshly seeded, and afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed accelerators as well.
        torch.default_generator.manual_seed(seed)
        yield
