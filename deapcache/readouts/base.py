"""What every readout is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deapcache.errors import UsageError
from deapcache.readouts.config import CELL, CHANNEL, DEFAULT_SIZE, STANDARDISED, ReadoutConfig

VARIANCE_FLOOR = 1e-10
"""Added to a cell's variance: far below that of any features, so that their scale drops out, and above rounding."""

CONSTANT = 1e-6
"""A channel whose standard deviation is below this share of its mean says nothing: that is float32's rounding."""


CPU_BLOCK = 1_000_000
"""Entries of a block on a CPU, of what does not fit into its cache as a whole: 4 MB in float32. Half and twice as many
were slower in the attention at 14×14 and 24×24 cells."""

DEVICE_BLOCK = 64_000_000
"""Entries of one block on an accelerator: 256 MB in float32, enough to fill it."""


def largest_block(device: torch.device) -> int:
    """Entries of the largest block on a device."""
    return CPU_BLOCK if device.type == "cpu" else DEVICE_BLOCK


class Readout(nn.Module, ABC):
    """A trainable map from a frozen feature volume to a dense output.

    ``READOUTS["name"] = Class`` registers it; the class attributes say what must be known before it is built. Its
    constructor draws the initialisation from PyTorch's global CPU generator and needs neither file nor network.
    Parameters that are frozen do not require gradients; they are part of the state, not of the count.

    Where features are standardised per channel, the state holds ``feature_mean`` and ``feature_std``, (D',) float32
    each, which :meth:`set_feature_statistics` sets before training: 0 and 1 before that.
    """

    summary: ClassVar[str] = ""
    """One line for ``deapcache list readouts``."""
    sizes: ClassVar[tuple[int, ...]] = ()
    """D that the name may carry; none: it comes in one size."""
    default_size: ClassVar[int] = DEFAULT_SIZE
    """D where the name carries none."""
    needs_guidance: ClassVar[bool] = False
    """Whether it is conditioned on the image: then :meth:`forward` must be given ``guidance``."""
    needs_upsampler: ClassVar[bool] = False
    """Whether :meth:`load_upsampler` needs a file."""
    features_as_published: ClassVar[str] = ""
    """What a published readout takes in place of features standardised per cell, in words for the protocol."""
    needs_layers: ClassVar[bool] = False
    """Whether it is for joined features of several layers, whose channels ``ReadoutConfig.parts`` says."""
    training_free: ClassVar[bool] = False
    """Whether :meth:`fit` takes the place of training; there is nothing to learn then."""

    config: ReadoutConfig
    feature_mean: Tensor
    feature_std: Tensor
    options: dict[str, Any]
    """Choices that change results, as JSON values: part of a probe's protocol.

    Nothing here depends on the backbone, so that a protocol is the same for all of them; the digest of an upsampler
    that was made for one backbone is the exception.
    """

    trained_size: tuple[int, int] | None = None
    """(height, width) of the outputs that it was trained for: the shape of the image that positions are measured in.
    ``None``: the shape of the output asked for."""

    output_of_mean: Callable[[Tensor], Tensor] | None = None
    """``Task.output_of_mean``, which makes an output of the mean values of a training-free readout, both (B, channels,
    h, w); ``None``: the output is the mean values."""

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__()
        self.config = config
        self.options = {}
        if config.standardise == CHANNEL:
            self.register_buffer("feature_mean", torch.zeros(config.feature_dim))
            self.register_buffer("feature_std", torch.ones(config.feature_dim))

    def set_feature_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Standardise by the mean and standard deviation of each channel over all cells of the training images, (D',).

        A constant channel, whose ``std`` is not above 1e-6 of its ``mean``, becomes 0 everywhere; its ``feature_std``
        is 0. Raises :class:`UsageError` for numbers of another width or not finite, and where features are not
        standardised per channel.
        """
        if self.config.standardise != CHANNEL:
            raise UsageError("statistics of channels are of no use to a readout that standardises features per cell")
        expected = (self.config.feature_dim,)
        for what, values in (("mean", mean), ("standard deviation", std)):
            if values.shape != expected or not bool(torch.isfinite(values).all()):
                raise UsageError(
                    f"the {what} of the feature channels is {tuple(values.shape)}, expected {expected} finite numbers: "
                    "compute the statistics from the cache that the readout is trained on"
                )
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(std * (std > CONSTANT * mean.abs()))

    def standardise(self, features_BHWD: Tensor) -> Tensor:
        """(B, H, W, D') as the readout takes them: standardised as its configuration says, float32.

        Backbones without a final norm give features of any scale; at one learning rate for all, that would decide how
        far a readout gets. Per cell, and there for each of several joined layers by itself, a few channels of large
        scale shrink all others (massive activations do); per channel they do not. A published readout with
        :attr:`features_as_published` takes them as they are in place of standardised per cell.
        """
        if self.config.standardise == CHANNEL:
            # what a constant channel has is divided by infinity
            scale_D = torch.where(self.feature_std > 0, self.feature_std, math.inf).reciprocal()
            features_BHWD = features_BHWD.to(scale_D.dtype)
            return torch.addcmul(-self.feature_mean * scale_D, features_BHWD, scale_D)
        if self.features_as_published:
            return features_BHWD.float()
        parts = features_BHWD.float().split(self.config.parts or features_BHWD.shape[-1:], -1)
        normed = [F.layer_norm(part, part.shape[-1:], eps=VARIANCE_FLOOR) for part in parts]
        return normed[0] if len(normed) == 1 else torch.cat(normed, -1)

    @property
    def features_option(self) -> str:
        """What :meth:`standardise` does, in words for ``options["features"]``."""
        if self.config.standardise == CELL and self.features_as_published:
            return self.features_as_published
        return STANDARDISED[self.config.standardise]

    def resize(self, x_BCHW: Tensor, output_size: tuple[int, int]) -> Tensor:
        """(B, C, height, width): values of a grid of cells at the pixels of the whole image, bilinearly.

        Pixels beyond the outermost centres, and those beyond the part that cells cover, have the nearest cell's.
        """
        if self.config.covered == (1.0, 1.0):
            return F.interpolate(x_BCHW, output_size, mode="bilinear", align_corners=False)
        rows, columns = (
            (2 * torch.arange(side, dtype=x_BCHW.dtype, device=x_BCHW.device) + 1) / (side * share) - 1
            for side, share in zip(output_size, self.config.covered, strict=True)
        )
        # from -1 to 1 between the edges of the grid, x before y
        places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).expand(len(x_BCHW), -1, -1, -1)
        return F.grid_sample(x_BCHW, places, mode="bilinear", padding_mode="border", align_corners=False)

    @abstractmethod
    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        """Dense output of any size from feature volumes of any grid.

        Parameters
        ----------
        features_BHWD
            (B, H, W, D') of any floating dtype; the grid covers the image, or the part of it that ``covered`` says.
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

    def load_upsampler(self, checkpoint: Path | None) -> None:
        """Load the published upsampler that a fresh readout is built around; most have none."""
        return

    def fit(self, batches: Iterable[tuple[Tensor, Tensor, Tensor]], generator: torch.Generator) -> None:
        """Take what a training-free readout needs of the training images, once over them.

        Parameters
        ----------
        batches
            Features (B, H, W, D') float32, values (B, C, h, w) float32 and which pixels have one, (B, h, w) bool: what
            ``Task.dense_values`` gives. All on the readout's device.
        generator
            A CPU one: decides what is kept where there is more than fits.

        Raises :class:`UsageError` where no pixel has a value, and for a readout that is trained.
        """
        raise UsageError(f"a {type(self).__name__} readout is trained: it cannot be fitted in one pass")

    def restore(self, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        """Take the options and the state dict of a trained readout; raises :class:`WeightsError` where it cannot."""
        self.load_state_dict(state)

    def stack_key(self) -> Hashable:
        """Readouts of one class with equal keys may be run as one by :meth:`forward_stacked`; ``None``: not at all."""
        return None

    @classmethod
    def forward_stacked(
        cls,
        members: Sequence[Self],
        features_BHWD: Tensor,
        output_size: tuple[int, int],
        guidance: Tensor | None = None,
    ) -> list[Tensor]:
        """What each of ``members`` gives for the same features, with the work that they share done once.

        Equal to calling them one after the other, up to rounding. Members have one class, one :meth:`stack_key` and one
        set of feature statistics.
        """
        return [member(features_BHWD, output_size, guidance) for member in members]

    @classmethod
    def forward_in_turn(
        cls,
        members: Sequence[Self],
        features_BHWD: Tensor,
        output_size: tuple[int, int],
        guidance: Tensor | None = None,
    ) -> Iterator[list[Tensor]]:
        """What :meth:`forward_stacked` gives, some members' outputs after the others', in order; for training.

        Run ``backward`` on what comes of some before taking the next: then no more than theirs is ever kept, and it is
        still in the processor's cache. What all share gets its gradients when there are no more.
        """
        yield cls.forward_stacked(members, features_BHWD, output_size, guidance)

    def sigma(self) -> Tensor | None:
        """Width of each head's Gaussian mask, (heads,), in units of the image's longer side; ``None`` without masks."""
        return None

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """All learnable parameters in groups as ``torch.optim.AdamW`` takes them."""
        learnable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"params": learnable, "lr": lr, "weight_decay": weight_decay}]


class StackedReadout(Readout):
    """A readout whose :meth:`forward_stacked` says what several members give; one alone is a stack of one.

    Members of one configuration are run as one. A subclass that says anew what ``forward`` gives, and not what a stack
    does, has members that are run one after the other; one that says what a stack does, and not in turn, gives all at
    once.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        outdated: tuple[str, ...] = ()
        if "forward_stacked" in vars(cls):
            outdated = ("forward_in_turn",)
        elif "forward" in vars(cls):
            outdated = ("forward_stacked", "stack_key", "forward_in_turn")
        for name in outdated:
            if name not in vars(cls):
                setattr(cls, name, vars(Readout)[name])

    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        return self.forward_stacked([self], features_BHWD, output_size, guidance)[0]

    def stack_key(self) -> Hashable:
        """Members of one configuration."""
        return self.config
