"""The sizes that a readout is built for, and what features go through before it."""

from __future__ import annotations

from dataclasses import dataclass

from deapcache.errors import UsageError, require_choice

SIZES = (8, 16, 32, 64, 128)
"""Values of D that a name may carry, as in ``bicubic:32``: those of the paper's Figure 4."""

DEFAULT_SIZE = 16
"""D where the name carries none."""

CELL, CHANNEL = "cell", "channel"

STANDARDISED = {CELL: "standardised per cell", CHANNEL: "standardised per channel over the training images"}
"""What features may go through before a readout, and what its options, so the protocol, say of it."""


@dataclass(frozen=True, kw_only=True)
class ReadoutConfig:
    """The sizes that a readout is built for, where its cells lie, and what the features go through before it.

    Raises :class:`UsageError` for a standardisation that there is not, and for shares that are none.
    """

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
    standardise: str = CELL
    """``cell``: the features of each cell are brought to mean 0 and variance 1 over its channels; ``channel``: those
    of each channel, over all cells of the training images."""
    covered: tuple[float, float] = (1.0, 1.0)
    """Share of the image's height and width that the feature cells cover, from the upper left corner: 504 / 512 where
    a backbone with patches of 14 pixels sees 512."""
    parts: tuple[int, ...] = ()
    """Channels of each layer, from shallow to deep, where the features of several are joined; empty for one."""

    def __post_init__(self) -> None:
        if self.parts and sum(self.parts) != self.feature_dim:
            raise UsageError(f"layers of {self.parts} channels are joined: expected {self.feature_dim} in all")
        require_choice("standardisation of features", self.standardise, STANDARDISED)
        if not all(0 < share <= 1 for share in self.covered):
            raise UsageError(
                f"feature cells cover {self.covered} of the image's height and width: expected shares above 0, up to 1"
            )

    @property
    def width(self) -> int:
        """CNN channels: ``cnn_width``, or max(D / 4, D_out // 2), the rule that the paper's parameter counts follow."""
        return self.cnn_width or max(self.code_dim // 4, self.out_channels // 2)
