"""The CNN of several readouts: its last step in blocks of images, as on a CPU, equals PyTorch's layers on the batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deapcache.readouts import cnn
from deapcache.readouts.cnn import UpsamplingCNN, run_side_by_side, run_together, upsample_bilinear


def by_layers(net: UpsamplingCNN, x: torch.Tensor) -> torch.Tensor:
    entered = x = net.entry(x)
    for block in net.steps():
        x = F.relu(block.upsampling(block.convolution(x)))
    return net.final(x) + F.interpolate(net.skip(entered), scale_factor=8, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("block", [1, 10**6, None])
@pytest.mark.parametrize(("count", "width", "channels"), [(1, 4, 1), (4, 4, 1), (2, 8, 3), (1, 10, 20)])
def test_side_by_side_equal_their_layers(count: int, width: int, channels: int, block: int | None, monkeypatch) -> None:
    if block is None:  # as on an accelerator
        monkeypatch.setattr(cnn, "_finish_in_blocks", cnn._finish)
    else:
        monkeypatch.setattr(cnn, "largest_block", lambda device: block)
    generator = torch.Generator().manual_seed(0)
    nets = [UpsamplingCNN(16, width, channels).double() for _ in range(count)]
    parameters = [parameter for net in nets for parameter in net.parameters()]
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    tokens = [torch.randn(2, 16, 5, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in nets]
    weights = [torch.randn(2, channels, 40, 32, generator=generator, dtype=torch.float64) for _ in nets]
    expected = [by_layers(net, x) for net, x in zip(nets, tokens, strict=True)]
    found = run_side_by_side(nets, tokens)
    ours, theirs = (
        torch.autograd.grad(
            torch.stack([(output * weight).sum() for output, weight in zip(outputs, weights, strict=True)]).sum(),
            [*tokens, *parameters],
        )
        for outputs in (found, expected)
    )
    for one, other in zip([*found, *ours], [*expected, *theirs], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_few_channels_run_together() -> None:
    assert run_together([UpsamplingCNN(16, 4, 1)] * 6) == [slice(0, 4), slice(4, 8)]
    assert run_together([UpsamplingCNN(16, 32, 20)] * 2) == [slice(0, 1), slice(1, 2)]


@pytest.mark.parametrize("channels", [1, 3])
def test_bilinear(channels: int) -> None:
    x = torch.randn(2, channels, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = F.interpolate(x, scale_factor=8, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample_bilinear(x, 8), expected)
