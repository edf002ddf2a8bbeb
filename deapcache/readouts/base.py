"""What every readout is, which there are, and fresh and trained ones by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deapcache.errors import UsageError
from deapcache.registry import Registry

SIZES = (8, 16, 32, 64, 128)
"""Values of D that a name may carry, as in ``bicubic:32``: those of the paper's Figure 4."""

DEFAULT_SIZE = 16
"""D where the name carries none."""


class Readout(nn.Module, ABC):
    """A trainable map from a frozen feature volume to a dense output.

    Parameters that are frozen do not require gradients; they are part of the state, not of the count.
    """

    needs_guidance: ClassVar[bool] = False
    """Whether it is conditioned on the image: then :meth:`forward` must be given ``guidance``."""

    options: dict[str, Any]
    """Choices that change results, as JSON values: part of a probe's protocol.

    Nothing here depends on the backbone, so that a protocol is the same for all of them; the digest of an upsampler
    that was made for one backbone is the exception.
    """

    trained_size: tuple[int, int] | None = None
    """(height, width) of the outputs that it was trained for: the shape of the image that positions are measured in.
    ``None``: the shape of the output asked for."""

    @abstractmethod
    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        """Dense output of any size from feature volumes of any grid.

        Parameters
        ----------
        features_BHWD
            (B, H, W, D') of any floating dtype; the grid covers the whole image.
        output_size
            Height and width in pixels.
        guidance
            Base images (B, h, w, 3) uint8 for readouts that are conditioned on the image; others leave it unread.

        Returns
        -------
        Tensor
            (B, D_out, height, width) float32.
        """

    @abstractmethod
    def set_output_bias(self, values: Tensor) -> None:
        """Start the output of each channel at ``values`` (D_out,), in one bias only where several are summed."""

    def stack_key(self) -> Hashable:
        """Readouts of one class with equal keys may be run as one by :meth:`forward_stacked`; ``None``: not at all."""
        return None

    @classmethod
    def forward_stacked(
        cls,
        members: Sequence[Readout],
        features_BHWD: Tensor,
        output_size: tuple[int, int],
        guidance: Tensor | None = None,
    ) -> list[Tensor]:
        """What each of ``members`` gives for the same features, with the work that they share done once.

        Equal to calling them one after the other, up to rounding. Members have one class and one :meth:`stack_key`.
        """
        return [member(features_BHWD, output_size, guidance) for member in members]

    def sigma(self) -> Tensor | None:
        """Width of each head's Gaussian mask, (heads,), in units of the image's longer side; ``None`` without masks."""
        return None

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """All learnable parameters in groups as ``torch.optim.AdamW`` takes them."""
        learnable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"params": learnable, "lr": lr, "weight_decay": weight_decay}]


@dataclass(frozen=True, kw_only=True)
class ReadoutConfig(ABC):
    """What decides a readout's architecture. A subclass adds its own choices and builds."""

    feature_dim: int
    """D', channels of the feature volumes."""
    out_channels: int
    """D_out, decided by the task."""
    grid: tuple[int, int]
    """Rows and columns of the feature volumes that it will be trained on."""
    cnn_width: int | None = None
    """Channels of the CNN where the task asks for a number; ``None``: the readout's own rule."""
    code_dim: int = DEFAULT_SIZE
    """D, width of the tokens: what Figure 4 sweeps."""

    @property
    def width(self) -> int:
        """CNN channels: ``cnn_width``, or max(D / 4, D_out // 2), the rule that the paper's parameter counts follow."""
        return self.cnn_width or max(self.code_dim // 4, self.out_channels // 2)

    @abstractmethod
    def build(self) -> Readout:
        """A freshly initialised readout, drawn from PyTorch's global CPU generator."""

    def blank(self) -> Readout:
        """A readout without what comes from files or a network: to count its parameters, or to give it a state."""
        return self.build()

    def restore(self, options: Mapping[str, Any]) -> Readout:
        """A readout that takes the state of a trained one, whose ``options`` these are."""
        return self.blank()


@dataclass(frozen=True, kw_only=True)
class ReadoutEntry:
    """A registered readout."""

    summary: str
    """One line for ``deapcache list readouts``."""
    config: Callable[..., ReadoutConfig]
    """Called with the keyword arguments ``feature_dim``, ``out_channels``, ``grid`` and ``cnn_width``; where the name
    carries D, with ``code_dim`` as well, and where ``needs_upsampler``, with ``upsampler``."""
    sizes: tuple[int, ...] = SIZES
    """D that the name may carry; none: it comes in one size."""
    needs_guidance: bool = False
    """:attr:`Readout.needs_guidance` of what it builds, known before it is built."""
    needs_upsampler: bool = False
    """Whether it is built around a published upsampler that is given as a file."""


READOUTS: Registry[ReadoutEntry] = Registry(
    "readout",
    modules=(
        "deapcache.readouts.deap",
        "deapcache.readouts.baselines",
        "deapcache.readouts.featup",
        "deapcache.readouts.anyup",
    ),
    entry_point_group="deapcache.readouts",
)


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
