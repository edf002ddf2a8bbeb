"""Batches of cached features and targets, in an order that depends on the protocol alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, tee

import numpy as np
import torch

from deapcache.probing.arrays import FEATURES, GUIDANCE, MIRRORED, SplitArrays
from deapcache.probing.drawn import as_drawn
from deapcache.probing.feeding import Tensors, feed
from deapcache.probing.options import Residency


@dataclass(frozen=True)
class Batch:
    """One step's data, on the device."""

    rows: np.ndarray
    """(B,) rows of the caches; an image and its mirror image have the same."""
    features: torch.Tensor
    """(B, H, W, D) as decoded from the cache of its view: float16 or float32."""
    maps: Mapping[str, torch.Tensor]
    """Annotation → (B, ...) as stored in its target cache; those of mirror images are mirrored."""
    guidance: torch.Tensor | None
    """(B, h, w, 3) uint8 base images, mirrored where the features are, where a readout needs them."""


def image_order(order_seed: int, draws: np.ndarray, *, iterations: int, batch_size: int) -> Iterator[np.ndarray]:
    """What each training step draws: ``iterations`` arrays of ``batch_size`` of ``draws``.

    Each epoch is a permutation of ``draws`` (all rows in each view) seeded by (``order_seed``, epoch); the epochs
    follow each other without a gap, so that every batch is whole. The first n batches do not depend on ``iterations``.
    """
    drawn = chain.from_iterable(_epochs(order_seed, draws))
    for _ in range(iterations):
        yield np.fromiter(drawn, dtype=draws.dtype, count=batch_size)


def _epochs(order_seed: int, draws: np.ndarray) -> Iterator[np.ndarray]:
    epoch = 0
    while True:
        yield np.random.default_rng([order_seed, epoch]).permutation(draws)
        epoch += 1


def sequential(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """``rows`` once, in order."""
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


class BatchStream:
    """Features and targets of a split as batches on a device.

    With residency ``stream`` each batch is read from the cache while earlier ones are used; with all others every array
    is read once, when the stream is made, into the host's memory (``memory``, ``pinned``) or the device's (``gpu``).
    All give the same bytes. Targets and base images are kept once, as they are of the original images, and mirrored on
    the device for those of a batch that are drawn as mirror images.
    """

    def __init__(self, arrays: SplitArrays, residency: Residency, device: torch.device) -> None:
        self._images = len(arrays.features)
        self._names = (FEATURES, *arrays.others)
        self._feed = feed(arrays, residency, device)

    def batches(self, order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """One :class:`Batch` for each array of draws in ``order``."""
        for rows, tensors in self._read(order, self._names):
            yield Batch(rows, tensors.pop(FEATURES), tensors, tensors.pop(GUIDANCE, None))

    def maps(self, annotations: Sequence[str], order: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensors]]:
        """(rows, annotation → targets) for each array of draws in ``order``; features are not read."""
        return self._read(order, annotations)

    def _read(self, order: Iterable[np.ndarray], names: Sequence[str]) -> Iterator[tuple[np.ndarray, Tensors]]:
        drawn, asked = tee(order)
        wanted = (self._wanted(draws, names) for draws in asked)
        for draws, tensors in zip(drawn, self._feed.tensors(wanted), strict=True):
            yield draws % self._images, as_drawn(tensors, names, draws >= self._images)

    def _wanted(self, draws: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        rows, mirrored = draws % self._images, draws >= self._images
        wanted = dict.fromkeys(names, rows)
        if FEATURES in wanted and mirrored.any():
            wanted |= {FEATURES: rows[~mirrored], MIRRORED: rows[mirrored]}
        return wanted
