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

from deapcache.cache import Cache, FeatureCache, mirror
from deapcache.probing.options import Residency

READ_AHEAD = 4
"""Batches that are being read while one is used."""

_CHUNK = 128
"""Rows read at a time when a whole split is read."""

_FEATURES, _MIRRORED, _GUIDANCE = "features", "mirrored features", "base images"

_MEMORY_SHARE = 0.25
"""Part of the available memory that training arrays may take."""


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


@dataclass(frozen=True)
class SplitArrays:
    """The caches of one split and the rows of them that are used."""

    features: FeatureCache
    targets: Mapping[str, Cache]
    """Annotation → target cache, whose rows are those of ``features``."""
    rows: np.ndarray
    images: Cache | None = None
    """Base images, whose rows are those of ``features``; ``None``: no readout needs them."""
    mirrored: FeatureCache | None = None
    """Features of the mirror images, whose rows are those of ``features``; ``None``: no mirror image is drawn."""

    @property
    def draws(self) -> np.ndarray:
        """What an epoch draws once each: the rows and, where there are mirror images, the rows + the number of images.

        A number is a row of the caches and a view in one, so that one permutation goes over rows × views.
        """
        return np.concatenate([self.rows + view * len(self.features) for view in range(len(self.volumes))])

    @property
    def volumes(self) -> dict[str, FeatureCache]:
        """The features of each view, by the names under which they are read."""
        return {_FEATURES: self.features, **({} if self.mirrored is None else {_MIRRORED: self.mirrored})}

    @property
    def others(self) -> dict[str, Cache]:
        """All caches but the features, by the names under which batches hold them."""
        return {**self.targets, **({} if self.images is None else {_GUIDANCE: self.images})}

    def decoded_bytes(self) -> int:
        """Bytes that the used rows take in memory."""
        one = self.rows[:1]
        sample = [cache.read_features(one) for cache in self.volumes.values()]
        sample += [cache.read(one) for cache in self.others.values()]
        return sum(array.nbytes for array in sample) * len(self.rows)


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


def choose_residency(needed_bytes: int) -> Residency:
    """``memory`` where ``needed_bytes`` fit in a quarter of the memory that is available now."""
    # macOS does not tell what is available, only what is there
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    available = os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    return "memory" if needed_bytes <= available * _MEMORY_SHARE else "stream"


Waiting = Callable[[], np.ndarray]
"""Waits for an array that was asked for, (B, ...)."""


class BatchStream:
    """Features and targets of a split as batches on a device.

    With residency ``memory`` every array is read once, when the stream is made; with ``stream`` each batch is read
    from the cache while earlier ones are used. Both give the same bytes. Targets and base images are kept once, as they
    are of the original images, and mirrored for those of a batch that are drawn as mirror images.
    """

    def __init__(self, arrays: SplitArrays, residency: Residency, device: torch.device) -> None:
        self._device = device
        self._images = len(arrays.features)
        self._names = (_FEATURES, *arrays.others)
        self._source: _Resident | _Streamed
        self._source = _Resident(arrays) if residency == "memory" else _Streamed(arrays)

    def batches(self, order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """One :class:`Batch` for each array of draws in ``order``."""
        for rows, tensors in self._read(order, self._names):
            yield Batch(rows, tensors.pop(_FEATURES), tensors, tensors.pop(_GUIDANCE, None))

    def maps(
        self, annotations: Sequence[str], order: Iterable[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
        """(rows, annotation → targets) for each array of draws in ``order``; features are not read."""
        return self._read(order, annotations)

    def _read(
        self, order: Iterable[np.ndarray], names: Sequence[str]
    ) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
        ahead: deque[tuple[np.ndarray, dict[str, Waiting]]] = deque()
        for draws in order:
            rows, mirrored = draws % self._images, draws >= self._images
            ahead.append((rows, {name: self._request(name, rows, mirrored) for name in names}))
            if len(ahead) > READ_AHEAD:
                yield self._ready(*ahead.popleft())
        for asked in ahead:
            yield self._ready(*asked)

    def _request(self, name: str, rows: np.ndarray, mirrored: np.ndarray) -> Waiting:
        if not mirrored.any():
            return self._source.request(name, rows)
        if name != _FEATURES:
            waiting = self._source.request(name, rows)
            return lambda: _mirror_some(name, waiting(), mirrored)
        parts = [
            (places, self._source.request(volumes, rows[places]))
            for volumes, places in ((_FEATURES, ~mirrored), (_MIRRORED, mirrored))
        ]
        return lambda: _put_together([(places, waiting()) for places, waiting in parts])

    def _ready(self, rows: np.ndarray, asked: Mapping[str, Waiting]) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        return rows, {name: self._to_device(waiting()) for name, waiting in asked.items()}

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def _mirror_some(kind: str, values: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    mixed = values.copy()
    mixed[mirrored] = mirror(kind, values[mirrored])
    return mixed


def _put_together(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """One array of parts, each with a mask (B,) of the places where its rows belong."""
    places, values = parts[0]
    whole = np.empty((len(places), *values.shape[1:]), values.dtype)
    for places, values in parts:
        whole[places] = values
    return whole


class _Streamed:
    def __init__(self, arrays: SplitArrays) -> None:
        self._read_async: dict[str, Any] = {name: cache.read_features_async for name, cache in arrays.volumes.items()}
        self._read_async |= {name: cache.read_async for name, cache in arrays.others.items()}

    def request(self, name: str, rows: np.ndarray) -> Waiting:
        waiting: Waiting = self._read_async[name](rows).result
        return waiting


class _Resident:
    def __init__(self, arrays: SplitArrays) -> None:
        self._place = {int(row): place for place, row in enumerate(arrays.rows)}
        self._arrays = {name: read_rows(cache.read_features, arrays.rows) for name, cache in arrays.volumes.items()}
        self._arrays |= {name: read_rows(cache.read, arrays.rows) for name, cache in arrays.others.items()}

    def request(self, name: str, rows: np.ndarray) -> Waiting:
        places = np.array([self._place[int(row)] for row in rows], dtype=np.intp)
        return lambda: self._arrays[name][places]


def read_rows(read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """All of ``rows`` in one array, read a chunk at a time, so that memory holds them once and not twice."""
    first = read(rows[:_CHUNK])
    whole = np.empty((len(rows), *first.shape[1:]), first.dtype)
    whole[: len(first)] = first
    for start in range(len(first), len(rows), _CHUNK):
        whole[start : start + _CHUNK] = read(rows[start : start + _CHUNK])
    return whole
