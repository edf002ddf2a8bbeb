"""The small network that turns tokens on the region grid into pixels: eight times the resolution, few channels.

Shape legend: B batch, C channels, R rows and W columns of the region grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deapcache.readouts.base import largest_block

REGION = 8
"""Side in output pixels of the square region that one query answers for (section 3): the CNN doubles three times."""

LANES = 16
"""Channels that are computed in about the time of one."""


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


def run_together(cnns: Sequence[UpsamplingCNN]) -> list[slice]:
    """Which CNNs, all of one shape, to run as one: as many as are no slower than one alone.

    A vector unit computes 16 channels in the time of 4.
    """
    final = cnns[0].final
    # the final convolution gives its channels at eight times the resolution: there, more than a few cost what they are
    together = max(1, LANES // max(cnns[0].entry.out_channels, 4 * final.out_channels))
    return [slice(start, start + together) for start in range(0, len(cnns), together)]


def run_side_by_side(cnns: Sequence[UpsamplingCNN], tokens: Sequence[Tensor]) -> list[Tensor]:
    """What each CNN makes of its own tokens, (B, in_channels, r, w) to (B, out_channels, 8r, 8w) each.

    All have one shape. Those that :func:`run_together` says are one convolution with block-diagonal weights.
    """
    return [output for part in run_together(cnns) for output in _run_group(cnns[part], tokens[part])]


def _run_group(cnns: Sequence[UpsamplingCNN], tokens: Sequence[Tensor]) -> list[Tensor]:
    # With so few channels, channels-last kernels are several times as fast on a CPU.
    x_BCRW = torch.cat(list(tokens), 1).contiguous(memory_format=torch.channels_last)
    entered = fine = _convolve(x_BCRW, [cnn.entry for cnn in cnns], padding=1)
    *steps, last = zip(*(cnn.steps() for cnn in cnns), strict=True)
    for blocks in steps:
        fine = _convolve(fine, [block.convolution for block in blocks], padding=1)
        fine = _upsample(fine, [block.upsampling for block in blocks])
    fine = _convolve(fine, [block.convolution for block in last], padding=1)
    finals = [cnn.final for cnn in cnns]
    # the bias of the final convolution is added where there is 64 times less to add it to
    bias_D = torch.cat([final.bias for final in finals])  # type: ignore[misc]
    coarse = _convolve(entered, [cnn.skip for cnn in cnns]) + bias_D[:, None, None]
    finish = _finish_in_blocks if fine.device.type == "cpu" and not torch.is_autocast_enabled("cpu") else _finish
    return finish(fine, coarse, [block.upsampling for block in last], finals)


def _finish(
    fine_BCRW: Tensor, coarse_BDrw: Tensor, upsamplings: Sequence[nn.ConvTranspose2d], finals: Sequence[nn.Conv2d]
) -> list[Tensor]:
    """Last doubling of ``fine``, ReLU, final 1 × 1 convolution, ``coarse`` brought up and added.

    (B, D, 2R, 2W) for each of the CNNs.
    """
    skipped_BDRW = upsample_bilinear(coarse_BDrw.contiguous(), REGION)
    weight_BDC = _side_by_side(finals)[0][:, :, 0, 0].expand(len(fine_BCRW), -1, -1)
    up_BCP = _upsample(fine_BCRW, upsamplings).flatten(2)
    output_BDP = torch.baddbmm(skipped_BDRW.flatten(2), weight_BDC, up_BCP)
    return list(output_BDP.view_as(skipped_BDRW).chunk(len(finals), 1))


def _finish_in_blocks(
    fine_BCRW: Tensor, coarse_BDrw: Tensor, upsamplings: Sequence[nn.ConvTranspose2d], finals: Sequence[nn.Conv2d]
) -> list[Tensor]:
    """What :func:`_finish` gives, some images after the others: at eight times the resolution the batch of several
    readouts would leave the processor's cache in every operation."""
    # (members, 4E, C): for each new channel its four pixels of a square
    weights = [layer.weight.permute(1, 2, 3, 0).flatten(0, 2) for layer in upsamplings]
    biases = [layer.bias.repeat_interleave(4)[:, None] for layer in upsamplings]  # type: ignore[union-attr]
    final = torch.stack([layer.weight.flatten(1) for layer in finals])
    return list(_Finish.apply(fine_BCRW, coarse_BDrw, torch.stack(weights), torch.stack(biases), final))


class _Finish(torch.autograd.Function):
    """Forward and backward of :func:`_finish_in_blocks`; what has the output's resolution is made anew for the latter.

    Shape legend: M members, C channels of ``fine`` each, E channels after the doubling, U = 4E of them by pixel of a
    square, D outputs, P pixels of ``fine``, N = images · M of a block.
    """

    @staticmethod
    def forward(
        ctx: Any, fine_BCRW: Tensor, coarse_BDrw: Tensor, up_MUC: Tensor, bias_MU1: Tensor, final_MDE: Tensor
    ) -> tuple[Tensor, ...]:
        (B, _, R, W), (M, D, E) = fine_BCRW.shape, final_MDE.shape
        rows, columns = (bilinear_matrix(side, REGION, coarse_BDrw) for side in coarse_BDrw.shape[2:])
        outputs = tuple(fine_BCRW.new_empty(B, D, 2 * R, 2 * W) for _ in range(M))
        x_BMCP, coarse_BMDrw = fine_BCRW.reshape(B, M, -1, R * W), coarse_BDrw.unflatten(1, (M, D))
        for images in _image_blocks(x_BMCP, E):
            up_NUP = _doubled(x_BMCP[images], up_MUC, bias_MU1)
            products = torch.bmm(_each(final_MDE, up_NUP), up_NUP.view(len(up_NUP), E, -1)).view(-1, M, D, 2, 2, R, W)
            skipped = rows @ coarse_BMDrw[images]
            for member, output in enumerate(outputs):
                torch.matmul(skipped[:, member], columns.T, out=output[images])
                _squares(output[images]).add_(products[:, member])
        ctx.save_for_backward(x_BMCP, up_MUC, bias_MU1, final_MDE, rows, columns)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *g_M_BDRW: Tensor) -> tuple[Tensor | None, ...]:
        x_BMCP, up_MUC, bias_MU1, final_MDE, rows, columns = ctx.saved_tensors
        (B, M, C, P), (_, D, E), (R, W) = x_BMCP.shape, final_MDE.shape, (side // 2 for side in g_M_BDRW[0].shape[2:])
        upT_MCU, finalT_MED = up_MUC.transpose(1, 2).contiguous(), final_MDE.transpose(1, 2).contiguous()
        dfine = x_BMCP.new_empty(B, M * C, R, W).contiguous(memory_format=torch.channels_last)
        dcoarse = x_BMCP.new_empty(B, M, D, rows.shape[1], columns.shape[1])
        dup, dbias, dfinal = (torch.zeros_like(t) for t in (up_MUC, bias_MU1, final_MDE))
        for images in _image_blocks(x_BMCP, E):
            x_BlockMCP = x_BMCP[images]
            squares = x_BMCP.new_empty(len(x_BlockMCP), M, D, 2, 2, R, W)
            for member, g_BDRW in enumerate(g_M_BDRW):
                dcoarse[images, member] = (rows.T @ g_BDRW[images]) @ columns
                squares[:, member] = _squares(g_BDRW[images])
            squares_NDP = squares.view(-1, D, 4 * P)
            up_NUP = _doubled(x_BlockMCP, up_MUC, bias_MU1)
            dfinal += _by_member(torch.bmm(squares_NDP, up_NUP.view(-1, E, 4 * P).transpose(1, 2)), M)
            dup_NUP = torch.bmm(_each(finalT_MED, up_NUP), squares_NDP).view_as(up_NUP)
            dup_NUP.mul_(up_NUP.sign_())  # through the ReLU
            dup += _by_member(torch.bmm(x_BlockMCP.flatten(0, 1), dup_NUP.transpose(1, 2)), M).transpose(1, 2)
            dbias += _by_member(dup_NUP.sum(-1, keepdim=True), M)
            dfine[images] = torch.bmm(_each(upT_MCU, up_NUP), dup_NUP).view(len(x_BlockMCP), -1, R, W)
        return dfine, dcoarse.flatten(1, 2), dup, dbias, dfinal


def _image_blocks(x_BMCP: Tensor, channels: int) -> list[slice]:
    """Images to take at once: as many as one block has room for the doubled resolution of, at least one."""
    B, M, _, P = x_BMCP.shape
    size = max(1, largest_block(x_BMCP.device) // (M * 4 * channels * P))
    return [slice(start, start + size) for start in range(0, B, size)]


def _doubled(x_BMCP: Tensor, up_MUC: Tensor, bias_MU1: Tensor) -> Tensor:
    """(images · M, U, P): the transposed convolution's channels by pixel of a square, after the ReLU."""
    x_NCP = x_BMCP.flatten(0, 1)
    return torch.baddbmm(_each(bias_MU1, x_NCP), _each(up_MUC, x_NCP), x_NCP).relu_()


def _each(weight_MIJ: Tensor, like: Tensor) -> Tensor:
    """The members' weights for each of the images."""
    return weight_MIJ.repeat(len(like) // len(weight_MIJ), 1, 1)


def _by_member(values_NIJ: Tensor, members: int) -> Tensor:
    """(M, I, J): summed over the images."""
    return values_NIJ.unflatten(0, (-1, members)).sum(0)


def _squares(x_BDRW: Tensor) -> Tensor:
    """A view (B, D, 2, 2, R, W) of (B, D, 2R, 2W): row and column in a square of 2 × 2 pixels, then the squares."""
    return x_BDRW.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4)


def _upsample(x: Tensor, layers: Sequence[nn.ConvTranspose2d]) -> Tensor:
    weight, bias = _side_by_side(layers)
    return F.relu(F.conv_transpose2d(x, weight, bias, stride=2), inplace=True)


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

    Two matrix products, which are faster on a CPU.
    """
    rows, columns = (bilinear_matrix(side, factor, x_BCRW) for side in x_BCRW.shape[2:])
    return rows @ x_BCRW @ columns.T


def bilinear_matrix(side: int, factor: int, like: Tensor) -> Tensor:
    """(factor · side, side): each row holds what the old values of an axis add to a new one."""
    ones = torch.eye(side, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(ones, scale_factor=factor, mode="linear", align_corners=False)[0].T
