"""The linear head of DINOv2 and DINOv3 against plain modules: batch norm, 1 × 1 convolution, bilinear resizing."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from deapcache_readouts import check_nothing_is_dead, count, draw_uneven, make, shake
from torch import nn


def plain(readout) -> nn.Sequential:
    """The published head with the readout's parameters, and fresh statistics."""
    norm, convolution = nn.BatchNorm2d(24), nn.Conv2d(24, 3, 1)
    with torch.no_grad():
        norm.weight.copy_(readout.scale)
        norm.bias.copy_(readout.shift)
        convolution.weight.copy_(readout.linear.weight[:, :, None, None])
        convolution.bias.copy_(readout.linear.bias)
    return nn.Sequential(norm, convolution, nn.Upsample((40, 32), mode="bilinear", align_corners=False)).double()


def test_training_and_prediction_are_those_of_plain_modules() -> None:
    members = [shake(make("linear-bn", out_channels=3, seed=seed)) for seed in range(2)]
    references = [plain(member) for member in members]
    batches = [draw_uneven(4, 5, 5, 24, seed=seed) for seed in range(3)]
    for features in batches:
        outputs = type(members[0]).forward_stacked(members, features, (40, 32))
        for member, reference, output in zip(members, references, outputs, strict=True):
            expected = reference(features.double().permute(0, 3, 1, 2))
            torch.testing.assert_close(output.double(), expected, rtol=1e-3, atol=1e-3)
            member.zero_grad()
            reference.zero_grad()
            (output[0, :, :8] ** 3).sum().backward(retain_graph=True)
            (expected[0, :, :8] ** 3).sum().backward()
            norm, convolution = reference[:2]
            theirs = (convolution.weight.flatten(1), convolution.bias, norm.weight, norm.bias)
            gradients = (convolution.weight.grad.flatten(1), convolution.bias.grad, norm.weight.grad, norm.bias.grad)
            ours = (member.linear.weight, member.linear.bias, member.scale, member.shift)
            for mine, other, gradient in zip(ours, theirs, gradients, strict=True):
                assert mine.shape == other.shape
                largest = gradient.abs().max()
                assert (mine.grad - gradient).abs().max() < 1e-3 * largest
            torch.testing.assert_close(member.running_mean.double(), norm.running_mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(member.running_var.double(), norm.running_var, rtol=1e-4, atol=1e-5)
    for member, reference in zip(members, references, strict=True):
        output = member.eval()(batches[0], (40, 32))
        expected = reference.eval()(batches[0].double().permute(0, 3, 1, 2))
        torch.testing.assert_close(output.double(), expected, rtol=1e-3, atol=1e-3)


def test_prediction_changes_no_statistics_and_sees_each_image_alone() -> None:
    readout, features = shake(make("linear-bn", out_channels=3)), draw_uneven(4, 5, 5, 24)
    readout(features, (16, 16))
    before = copy.deepcopy(readout.eval().state_dict())
    together = readout(features, (16, 16))
    torch.testing.assert_close(readout(features[1:2], (16, 16)), together[1:2])
    assert all(torch.equal(value, before[name]) for name, value in readout.state_dict().items())


def test_it_starts_small_and_whole() -> None:
    readout = make("linear-bn", feature_dim=768, out_channels=21)
    assert 0.009 < readout.linear.weight.std() < 0.011
    assert count(readout) == 21 * 769 + 2 * 768
    readout.set_output_bias(torch.arange(21.0))
    assert torch.equal(readout.linear.bias.detach(), torch.arange(21.0))
    small = make("linear-bn")
    with torch.no_grad():
        small.linear.bias.fill_(1.0)
    check_nothing_is_dead(small, small(draw_uneven(2, 5, 5, 24), (64, 64)))


def test_training_on_standardised_features_is_the_same() -> None:
    """Batch norm takes scales and offsets of channels away by itself, whichever mode the protocol has."""
    features = draw_uneven(4, 5, 5, 24)
    plainly, channel = make("linear-bn"), make("linear-bn", standardise="channel")
    cells = features.flatten(0, 2)
    channel.set_feature_statistics(cells.mean(0), cells.std(0))
    big = [channel_ for channel_ in range(24) if cells[:, channel_].std() > 0.1]
    with torch.no_grad():  # where the epsilon counts, they differ
        for readout in (plainly, channel):
            mask = torch.zeros(24)
            mask[big] = 1
            readout.linear.weight.mul_(mask)
    expected = plainly(features, (16, 16))
    torch.testing.assert_close(channel(features, (16, 16)), expected, rtol=1e-2, atol=1e-3)
    assert F.mse_loss(expected, torch.zeros_like(expected)) > 0
