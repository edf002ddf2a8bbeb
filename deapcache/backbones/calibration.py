"""BatchNorm statistics of untrained networks.

Without them a randomly initialised network with BatchNorm passes its input through statistics it never saw (mean 0,
variance 1), and its features say nothing about the architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from deapcache.errors import UsageError


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that keep running statistics."""
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]


Statistics = list[tuple[Tensor, Tensor]]
"""Running mean and variance of each BatchNorm layer, (channels,) float32 each."""


def statistics_of(module: nn.Module) -> Statistics:
    """The BatchNorm statistics of ``module``, in the order of its layers, on the CPU."""
    layers = batch_norms(module)
    return [(_buffer(layer.running_mean).cpu().clone(), _buffer(layer.running_var).cpu().clone()) for layer in layers]


def adopt(module: nn.Module, statistics: Statistics) -> None:
    """Give ``module`` the statistics that :func:`statistics_of` took of another copy of it."""
    for layer, (mean, variance) in zip(batch_norms(module), statistics, strict=True):
        _buffer(layer.running_mean).copy_(mean)
        _buffer(layer.running_var).copy_(variance)


def recalibrate(module: nn.Module, forward: Callable[[Tensor], object], batches: Iterable[Tensor]) -> None:
    """Set each BatchNorm's statistics to the mean, over ``batches``, of the batch's mean and unbiased variance.

    Every layer sees inputs that were normalised with the statistics of their own batch, and nothing else leaves
    evaluation mode. Raises :class:`UsageError` where there is no batch.
    """
    layers = batch_norms(module)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's spelling of a cumulative average
        layer.train()
    seen = 0
    try:
        with torch.no_grad():
            for batch in batches:
                forward(batch)
                seen += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
    if not seen:
        raise UsageError("BatchNorm statistics cannot be estimated from no images: give at least one batch")


def _buffer(found: Tensor | None) -> Tensor:
    assert found is not None  # of a layer that tracks running statistics
    return found
