"""Batches of cached features and targets, in an order that depends on the protocol alone."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch

from deapcache.cache import Cache, FeatureCache
from deapcache.probing.options import Residency

READ_AHEAD = 4
"""Batches that are being read while one is used."""

_CHUNK = 128
"""Rows read at a time when a whole split is read."""

_FEATURES, _GUIDANCE = "features", "base images"

_MEMORY_SHARE = 0.25
"""Part of the available memory that training arrays may take."""


@dataclass(frozen=True)
class Batch:
    """One step's data, on the device."""

    rows: np.ndarray
    """(B,) rows of the caches."""
    features: torch.Tensor
    """(B, H, W, D) as decoded from the cache: float16 or float32."""
    maps: Mapping[str, torch.Tensor]
    """Annotation → (B, ...) as stored in its target cache."""
    guidance: torch.Tensor | None
    """(B, h, w, 3) uint8 base images, where a readout needs them."""


@dataclass(frozen=True)
class SplitArrays:
    """The caches of one split and the rows of them that are used."""

    features: FeatureCache
    targets: Mapping[str, Cache]
    """Annotation → target cache, whose rows are those of ``features``."""
    rows: np.ndarray
    images: Cache | None = None
    """Base images, whose rows are those of ``features``; ``None``: no readout needs them."""

    @property
    def others(self) -> dict[str, Cache]:
        """All caches but the features, by the names under which batches hold them."""
        return {**self.targets, **({} if self.images is None else {_GUIDANCE: self.images})}

    def decoded_bytes(self) -> int:
        """Bytes that the used rows take in memory."""
        one = self.rows[:1]
        sample = [self.features.read_features(one), *(cache.read(one) for cache in self.others.values())]
        return sum(array.nbytes for array in sample) * len(self.rows)


def image_order(order_seed: int, rows: np.ndarray, *, iterations: int, batch_size: int) -> Iterator[np.ndarray]:
    """The rows of each training step: ``iterations`` arrays of ``batch_size`` rows.

    Each epoch is a permutation of ``rows`` seeded by (``order_seed``, epoch); the epochs follow each other without a
    gap, so that every batch is whole. The first n batches do not depend on ``iterations``.
    """
    drawn = chain.from_iterable(_epochs(order_seed, rows))
    for _ in range(iterations):
        yield np.fromiter(drawn, dtype=rows.dtype, count=batch_size)


def _epochs(order_seed: int, rows: np.ndarray) -> Iterator[np.ndarray]:
    epoch = 0
    while True:
        yield np.random.default_rng([order_seed, epoch]).permutation(rows)
        epoch += 1


def sequential(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """``rows`` once, in order."""
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


def choose_residency(needed_bytes: int) -> Residency:
    """``memory`` where ``needed_bytes`` fit in a quarter of the memory that is available now."""
    # macOS does not tell what is available, only what is there
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    available = os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    return "memory" if needed_bytes <= available * _MEMORY_SHARE else "stream"


Reading = Callable[[], dict[str, np.ndarray]]
"""Waits for arrays that were asked for: name → (B, ...)."""


class BatchStream:
    """Features and targets of a split as batches on a device.

    With residency ``memory`` every array is read once, when the stream is made; with ``stream`` each batch is read
    from the cache while earlier ones are used. Both give the same bytes.
    """

    def __init__(self, arrays: SplitArrays, residency: Residency, device: torch.device) -> None:
        self._device = device
        self._names = (_FEATURES, *arrays.others)
        self._source: _Resident | _Streamed
        self._source = _Resident(arrays) if residency == "memory" else _Streamed(arrays)

    def batches(self, order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """One :class:`Batch` for each array of rows in ``order``."""
        for rows, tensors in self._read(order, self._names):
            yield Batch(rows, tensors.pop(_FEATURES), tensors, tensors.pop(_GUIDANCE, None))

    def maps(
        self, annotations: Sequence[str], order: Iterable[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
        """(rows, annotation → stored targets) for each array of rows in ``order``; features are not read."""
        return self._read(order, annotations)

    def _read(
        self, order: Iterable[np.ndarray], names: Sequence[str]
    ) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
        ahead: deque[tuple[np.ndarray, Reading]] = deque()
        for rows in order:
            ahead.append((rows, self._source.request(rows, names)))
            if len(ahead) > READ_AHEAD:
                yield self._ready(*ahead.popleft())
        for waiting in ahead:
            yield self._ready(*waiting)

    def _ready(self, rows: np.ndarray, reading: Reading) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        return rows, {name: self._to_device(array) for name, array in reading().items()}

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


class _Streamed:
    def __init__(self, arrays: SplitArrays) -> None:
        self._read_async: dict[str, Any] = {_FEATURES: arrays.features.read_features_async}
        self._read_async |= {name: cache.read_async for name, cache in arrays.others.items()}

    def request(self, rows: np.ndarray, names: Sequence[str]) -> Reading:
        readings = {name: self._read_async[name](rows) for name in names}
        return lambda: {name: reading.result() for name, reading in readings.items()}


class _Resident:
    def __init__(self, arrays: SplitArrays) -> None:
        self._place = {int(row): place for place, row in enumerate(arrays.rows)}
        self._arrays = {_FEATURES: read_rows(arrays.features.read_features, arrays.rows)}
        self._arrays |= {name: read_rows(cache.read, arrays.rows) for name, cache in arrays.others.items()}

    def request(self, rows: np.ndarray, names: Sequence[str]) -> Reading:
        places = [self._place[int(row)] for row in rows]
        return lambda: {name: self._arrays[name][places] for name in names}


def read_rows(read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """All of ``rows`` in one array, read a chunk at a time, so that memory holds them once and not twice."""
    first = read(rows[:_CHUNK])
    whole = np.empty((len(rows), *first.shape[1:]), first.dtype)
    whole[: len(first)] = first
    for start in range(len(first), len(rows), _CHUNK):
        whole[start : start + _CHUNK] = read(rows[start : start + _CHUNK])
    return whole
