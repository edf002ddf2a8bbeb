"""What every readout is and how one is made by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deapcache.registry import Registry


class Readout(nn.Module, ABC):
    """A trainable map from a frozen feature volume to a dense output."""

    options: dict[str, Any]
    """Choices that change results, as JSON values: part of a probe's protocol.

    Nothing here depends on the backbone, so that a protocol is the same for all of them.
    """

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

    def sigma(self) -> Tensor | None:
        """Width of each head's Gaussian mask, (heads,), in units of the image's longer side; ``None`` without masks."""
        return None

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """All parameters in groups as ``torch.optim.AdamW`` takes them."""
        return [{"params": list(self.parameters()), "lr": lr, "weight_decay": weight_decay}]


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

    @abstractmethod
    def build(self) -> Readout:
        """A freshly initialised readout, drawn from PyTorch's global CPU generator."""


@dataclass(frozen=True, kw_only=True)
class ReadoutEntry:
    """A registered readout."""

    summary: str
    """One line for ``deapcache list readouts``."""
    config: Callable[..., ReadoutConfig]
    """Called with the keyword arguments ``feature_dim``, ``out_channels``, ``grid`` and ``cnn_width``."""


READOUTS: Registry[ReadoutEntry] = Registry(
    "readout", modules=("deapcache.readouts.deap",), entry_point_group="deapcache.readouts"
)


def build_readout(
    name: str,
    *,
    feature_dim: int,
    out_channels: int,
    grid: tuple[int, int],
    cnn_width: int | None = None,
    seed: int,
) -> Readout:
    """A freshly initialised readout on the CPU, the same for the same arguments.

    Leaves PyTorch's global random state as it was.

    Parameters
    ----------
    name
        One of ``READOUTS.names()``.
    feature_dim, out_channels
        D' of the features and D_out of the task.
    grid
        (H, W) of the features.
    cnn_width
        Channels of the CNN; ``None``: the readout's own rule.
    seed
        Of the initialisation.

    Raises
    ------
    UnknownNameError
        No readout of that name; offers the nearest names.
    """
    config = READOUTS.get(name).config(
        feature_dim=feature_dim, out_channels=out_channels, grid=grid, cnn_width=cnn_width
    )
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed accelerators as well.
        torch.default_generator.manual_seed(seed)
        return config.build()
