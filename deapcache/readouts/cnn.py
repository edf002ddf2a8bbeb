"""The small network that turns tokens on the region grid into pixels: eight times the resolution, few channels.

Shape legend: B batch, C channels, R rows and W columns of the region grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deapcache.readouts.positions import REGION


class UpsamplingBlock(nn.Module):
    """3 × 3 convolution, 2 × 2 transposed convolution with stride 2, ReLU: doubles the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.upsampling = nn.ConvTranspose2d(out_channels, out_channels, 2, stride=2)

    def forward(self, x_BCRW: Tensor) -> Tensor:
        """(B, in_channels, r, w) to (B, out_channels, 2r, 2w), not negative."""
        upsampled: Tensor = self.upsampling(self.convolution(x_BCRW))
        return F.relu(upsampled, inplace=True)


class UpsamplingCNN(nn.Module):
    """Section 3's γ: an entry convolution, three upsampling blocks, a final 1 × 1 convolution and a skip connection.

    The paper's text leaves open where channels change. This layout is *count-equivalent*: found by search, it gives all
    of the paper's printed parameter counts. The skip is a 1 × 1 convolution of the entry's output, brought up
    bilinearly.

    Biases start at zero: with PyTorch's own start, both of the last block's channels are dead in a quarter of
    seeds of a one-channel readout, and only the skip is left.

    Parameters
    ----------
    in_channels
        Width of the tokens.
    width
        Channels C of entry and blocks; the last block has C // 2.
    out_channels
        D_out, decided by the task.
    """

    def __init__(self, in_channels: int, width: int, out_channels: int) -> None:
        super().__init__()
        half = width // 2
        self.entry = nn.Conv2d(in_channels, width, 3, padding=1)
        self.blocks = nn.Sequential(
            UpsamplingBlock(width, width), UpsamplingBlock(width, width), UpsamplingBlock(width, half)
        )
        self.final = nn.Conv2d(half, out_channels, 1)
        self.skip = nn.Conv2d(width, out_channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens_BCRW: Tensor) -> Tensor:
        """(B, in_channels, r, w) to (B, out_channels, 8r, 8w)."""
        # With so few channels, channels-last kernels are several times as fast on a CPU.
        entered = self.entry(tokens_BCRW.contiguous(memory_format=torch.channels_last))
        coarse = F.interpolate(self.skip(entered), scale_factor=REGION, mode="bilinear", align_corners=False)
        fine: Tensor = self.final(self.blocks(entered))
        return fine + coarse

    def set_output_bias(self, values: Tensor) -> None:
        """Start the output at ``values`` (out_channels,): in the final bias alone, as the skip's is added to it."""
        with torch.no_grad():
            self.skip.bias.zero_()  # type: ignore[union-attr]
            self.final.bias.copy_(values)  # type: ignore[union-attr]
