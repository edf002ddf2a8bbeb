"""What every readout is, and which there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from deapcache.plugins import Registry

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
        "deapcache.readouts.ablations",
        "deapcache.readouts.bicubic",
        "deapcache.readouts.transposed",
        "deapcache.readouts.linear",
        "deapcache.readouts.featup",
        "deapcache.readouts.anyup",
    ),
)
