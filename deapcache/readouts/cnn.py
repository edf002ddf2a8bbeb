"""The small network that turns tokens on the region grid into pixels: eight times the resolution, few channels.

Shape legend: B batch, C channels, R rows and W columns of the region grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REGION = 8
"""Side in output pixels of the square region that one query answers for (section 3): the CNN doubles three times."""

LANES = 16
"""Channels that are computed in about the time of one."""

MATRIX_CHANNELS = 2
"""Channels that are brought up by matrix products; for more, PyTorch's own kernel is faster."""


class UpsamplingBlock(nn.Module):
    """Layers of a step that doubles the resolution: 3 × 3 convolution, 2 × 2 transposed one with stride 2, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.upsampling = nn.ConvTranspose2d(out_channels, out_channels, 2, stride=2)


class UpsamplingCNN(nn.Module):
    """Section 3's γ: an entry convolution, three upsampling blocks, a final 1 × 1 convolution and a skip connection.

    :func:`run_side_by_side` runs one or several of them.

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
        self.blocks = nn.ModuleList(
            [UpsamplingBlock(width, width), UpsamplingBlock(width, width), UpsamplingBlock(width, half)]
        )
        self.final = nn.Conv2d(half, out_channels, 1)
        self.skip = nn.Conv2d(width, out_channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def steps(self) -> list[UpsamplingBlock]:
        """The blocks, in order."""
        return [block for block in self.blocks if isinstance(block, UpsamplingBlock)]

    def set_output_bias(self, values: Tensor) -> None:
        """Start the output at ``values`` (out_channels,): in the final bias alone, as the skip's is added to it."""
        with torch.no_grad():
            self.skip.bias.zero_()  # type: ignore[union-attr]
            self.final.bias.copy_(values)  # type: ignore[union-attr]


def run_side_by_side(cnns: Sequence[UpsamplingCNN], tokens: Sequence[Tensor]) -> list[Tensor]:
    """What each CNN makes of its own tokens, (B, in_channels, r, w) to (B, out_channels, 8r, 8w) each.

    All have one shape. Those with few channels are run together as one convolution with block-diagonal weights: a
    vector unit computes 16 channels in the time of 4.
    """
    final = cnns[0].final
    # the final convolution gives its channels at eight times the resolution: there, more than a few cost what they are
    together = max(1, LANES // max(cnns[0].entry.out_channels, 4 * final.out_channels))
    outputs: list[Tensor] = []
    for start in range(0, len(cnns), together):
        outputs += _run_group(cnns[start : start + together], tokens[start : start + together])
    return outputs


def _run_group(cnns: Sequence[UpsamplingCNN], tokens: Sequence[Tensor]) -> list[Tensor]:
    # With so few channels, channels-last kernels are several times as fast on a CPU.
    x_BCRW = torch.cat(list(tokens), 1).contiguous(memory_format=torch.channels_last)
    entered = _convolve(x_BCRW, [cnn.entry for cnn in cnns], padding=1)
    fine = entered
    for blocks in zip(*(cnn.steps() for cnn in cnns), strict=True):
        fine = _convolve(fine, [block.convolution for block in blocks], padding=1)
        weight, bias = _side_by_side([block.upsampling for block in blocks])
        fine = F.relu(F.conv_transpose2d(fine, weight, bias, stride=2), inplace=True)
    coarse = _convolve(entered, [cnn.skip for cnn in cnns])
    return list(_finish(fine, coarse, [cnn.final for cnn in cnns]).chunk(len(cnns), 1))


def _finish(fine_BCRW: Tensor, coarse_BDrw: Tensor, layers: Sequence[nn.Conv2d]) -> Tensor:
    """1 × 1 convolution of ``fine`` and the upsampled ``coarse`` in one product, (B, D, R, W).

    Output and gradient have the layout that losses want, so that they are not copied from one layout to another; the
    bias is added where there is 64 times less to add it to.
    """
    weight_DC11, bias_D = _side_by_side(layers)
    skipped_BDRW = upsample_bilinear((coarse_BDrw + bias_D[:, None, None]).contiguous(), REGION)
    weight_BDC = weight_DC11[:, :, 0, 0].expand(len(fine_BCRW), -1, -1)
    return torch.baddbmm(skipped_BDRW.flatten(2), weight_BDC, fine_BCRW.flatten(2)).view_as(skipped_BDRW)


def _convolve(x: Tensor, layers: Sequence[nn.Conv2d], padding: int = 0) -> Tensor:
    weight, bias = _side_by_side(layers)
    return F.conv2d(x, weight, bias, padding=padding)


def _side_by_side(layers: Sequence[nn.Conv2d | nn.ConvTranspose2d]) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layers as one: block-diagonal over the first two axes, channels in the layers' order."""
    if len(layers) == 1:
        return layers[0].weight, layers[0].bias  # type: ignore[return-value]
    weight = torch.stack([layer.weight for layer in layers])
    groups, rows, columns = weight.shape[:3]
    diagonal = torch.eye(groups, dtype=weight.dtype, device=weight.device)[:, None, :, None, None, None]
    whole = (diagonal * weight[:, :, None]).reshape(groups * rows, groups * columns, *weight.shape[3:])
    return whole, torch.cat([layer.bias for layer in layers])  # type: ignore[misc]


def upsample_bilinear(x_BCRW: Tensor, factor: int) -> Tensor:
    """(B, C, r, w) to (B, C, factor · r, factor · w), as ``F.interpolate`` with ``align_corners=False``.

    One or two channels go by two matrix products, which are several times as fast on a CPU.
    """
    if x_BCRW.shape[1] > MATRIX_CHANNELS:
        return F.interpolate(x_BCRW, scale_factor=factor, mode="bilinear", align_corners=False)
    matrices = []
    for side in x_BCRW.shape[2:]:
        ones = torch.eye(side, dtype=x_BCRW.dtype, device=x_BCRW.device)[None]
        # (factor · side, side): each row holds what the old values add to a new one.
        matrices.append(F.interpolate(ones, scale_factor=factor, mode="linear", align_corners=False)[0].T)
    rows, columns = matrices
    return rows @ x_BCRW @ columns.T
