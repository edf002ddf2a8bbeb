"""Which readouts there are, and fresh and trained ones by name; building one is what loads torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from deapcache.errors import UnknownNameError, UsageError
from deapcache.plugins import Registry
from deapcache.readouts.config import DEFAULT_SIZE, ReadoutConfig

if TYPE_CHECKING:
    from torch import Tensor

    from deapcache.readouts.base import Readout


@dataclass(frozen=True)
class ReadoutSpec:
    """What is known before it is built of a readout of deapcache's own, whose module needs torch, or a variant."""

    make: str | Callable[..., Readout]
    """``module:Class`` in ``deapcache.readouts``, or what builds one from a :class:`ReadoutConfig`."""
    summary: str
    _: KW_ONLY
    sizes: tuple[int, ...] = ()
    default_size: int = DEFAULT_SIZE
    needs_guidance: bool = False
    needs_upsampler: bool = False
    needs_layers: bool = False
    training_free: bool = False
    """All of them as the class has them."""

    def __call__(self, config: ReadoutConfig, **choices: Any) -> Readout:
        """A fresh readout, with these keyword arguments of its class."""
        make = self.make
        if isinstance(make, str):
            module, _, name = make.partition(":")
            make = getattr(importlib.import_module(f"deapcache.readouts.{module}"), name)
        readout: Readout = make(config, **choices)
        return readout


ReadoutEntry: TypeAlias = "type[Readout] | ReadoutSpec"
"""A registered readout."""

_FACTS = ("sizes", "default_size", "needs_guidance", "needs_upsampler", "needs_layers", "training_free")


def variant(readout: ReadoutEntry, summary: str, *, size: int | None = None, **choices: Any) -> ReadoutSpec:
    """A readout with some keyword arguments of its class set, to register under a name of its own.

    ``size`` is D where the variant comes in that size alone; else it comes in those of the class.
    """
    facts = {name: getattr(readout, name) for name in _FACTS}
    if size is not None:
        facts |= {"sizes": (), "default_size": size}
    return ReadoutSpec(partial(readout, **choices), summary, **facts)


READOUTS: Registry[ReadoutEntry] = Registry("readout", modules=("deapcache.readouts",))

_NOW_A_PLUGIN = {"anyup": "docs/templates/anyup.py"}
"""Readouts that earlier versions had, and the example plugins that have them now."""


def canonical_readout(name: str) -> str:
    """The one name of a readout that has two: ``deap:16`` is ``deap``; raises as :func:`build_readout`."""
    base, entry, size = _parse(name)
    return base if size in (None, entry.default_size) else f"{base}:{size}"


def readout_entry(name: str) -> ReadoutEntry:
    """What is known of the readout of that name, with or without a size; raises as :func:`build_readout`."""
    return _parse(name)[1]


def learnable_parameters(name: str, **sizes: Any) -> int:
    """Learnable parameters of a readout, counted from its modules; needs neither file nor network.

    ``sizes`` are fields of :class:`ReadoutConfig`. Raises what :func:`build_readout` raises for a wrong name.
    """
    readout = blank_readout(name, **sizes)
    return sum(parameter.numel() for parameter in readout.parameters() if parameter.requires_grad)


def blank_readout(name: str, *, seed: int = 0, **sizes: Any) -> Readout:
    """A readout like those that :func:`build_readout` gives, on the CPU, with random numbers for what comes from files.

    Raises what :func:`build_readout` raises for a wrong name.
    """
    _, entry, size = _parse(name)
    config = ReadoutConfig(**sizes, code_dim=size or entry.default_size)
    with seeded(seed):
        return entry(config)


def build_readout(name: str, *, seed: int, upsampler: Path | None = None, **sizes: Any) -> Readout:
    """A freshly initialised readout on the CPU, the same for the same arguments.

    Leaves PyTorch's global random state as it was.

    Parameters
    ----------
    name
        One of ``READOUTS.names()``, or ``NAME:D`` with D one of the entry's sizes.
    seed
        Of the initialisation.
    upsampler
        Checkpoint of a published upsampler; readouts without one leave it unread.
    sizes
        Fields of :class:`ReadoutConfig` but for ``code_dim``, which the name says: at least ``feature_dim``,
        ``out_channels`` and ``grid``. After ``standardise="channel"`` comes :meth:`Readout.set_feature_statistics`.

    Raises
    ------
    UnknownNameError
        No readout of that name; offers the nearest names.
    UsageError
        A size, standardisation or share of the image that there is not, a readout without sizes, or one that lacks its
        upsampler.
    WeightsError
        The upsampler's checkpoint cannot be read, or was made for another feature width.
    """
    readout = blank_readout(name, seed=seed, **sizes)
    with seeded(seed):
        readout.load_upsampler(upsampler)
    return readout


def restore_readout(name: str, *, options: Mapping[str, Any], state: Mapping[str, Tensor], **sizes: Any) -> Readout:
    """A trained readout on the CPU, in evaluation mode, from its ``options`` and its state dict.

    Needs neither a checkpoint of an upsampler nor statistics of the features: they are part of the state. Raises what
    :func:`build_readout` raises.
    """
    readout = blank_readout(name, **sizes)
    with seeded(0):
        readout.restore(options, state)
    return readout.eval()


def _parse(name: str) -> tuple[str, ReadoutEntry, int | None]:
    """Base name, entry and D; ``None`` where the name carries no D."""
    base, colon, size = name.partition(":")
    if base in _NOW_A_PLUGIN and base not in READOUTS:
        raise UnknownNameError(
            f"readout {base} is an example of a plugin now, and in the package no more: get {_NOW_A_PLUGIN[base]} "
            "from deapcache's source and give it with --plugin (docs/readouts.md)"
        )
    entry = READOUTS.get(base)
    if not colon:
        return base, entry, None
    if size.startswith("layers"):
        raise UsageError(f"readout {name!r}: layers are joined by the probe, for all readouts: --layers 6,9,last")
    if not entry.sizes:
        raise UsageError(f"readout {name!r}: {base} comes in one size; leave out ':{size}'")
    if size not in map(str, entry.sizes):
        known = ", ".join(map(str, entry.sizes))
        raise UsageError(f"readout {name!r}: the size after the colon is {size!r}, expected one of {known}")
    return base, entry, int(size)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's global CPU generator freshly seeded, and afterwards as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed accelerators as well.
        torch.default_generator.manual_seed(seed)
        yield
