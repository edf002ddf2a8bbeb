"""How the arrays of a batch reach the device: from the cache, from the host's memory, or from the device's own.

Every way takes the rows that are wanted of each array, batch after batch, and gives the same bytes as tensors on the
device. It may look some batches ahead, and gives them in order.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Protocol

import numpy as np
import torch

from deapcache.cache import Reading
from deapcache.errors import UsageError
from deapcache.probing.arrays import SplitArrays
from deapcache.probing.options import Residency

READ_AHEAD = 4
"""Batches that are being read while one is used."""

_CHUNK = 128
"""Rows read at a time when a whole split is read."""

_PORTABLE = 1
"""``cudaHostRegisterPortable``: pinned for every GPU."""

Rows = Mapping[str, np.ndarray]
"""Name of an array → the rows wanted of it, (n,)."""

Tensors = dict[str, torch.Tensor]
"""Name of an array → those rows, (n, ...), on the device."""

Read = Callable[[np.ndarray], Reading]


class Feed(Protocol):
    """One way to the device."""

    def tensors(self, wanted: Iterable[Rows]) -> Iterator[Tensors]:
        """The rows of each batch."""
        ...


def feed(arrays: SplitArrays, residency: Residency, device: torch.device) -> Feed:
    """The way of ``residency``; all but ``stream`` read every used row now, once."""
    reads: dict[str, Read] = {name: cache.read_features_async for name, cache in arrays.volumes.items()}
    reads |= {name: cache.read_async for name, cache in arrays.others.items()}
    if residency == "stream":
        return _Streamed(reads, device)
    where = device if residency == "gpu" else torch.device("cpu")
    held = {name: _load(read, arrays.rows, where) for name, read in reads.items()}
    kinds: dict[str, type[_InMemory | _Pinned | _OnDevice]]
    kinds = {"memory": _InMemory, "pinned": _Pinned, "gpu": _OnDevice}
    return kinds[residency](held, arrays.rows, device)


class _Streamed:
    """Batches are read from the cache while earlier ones are used."""

    def __init__(self, reads: Mapping[str, Read], device: torch.device) -> None:
        self._reads = reads
        self._device = device

    def tensors(self, wanted: Iterable[Rows]) -> Iterator[Tensors]:
        return _delivered(self._arrays(wanted), self._device)

    def _arrays(self, wanted: Iterable[Rows]) -> Iterator[Tensors]:
        ahead: deque[dict[str, Reading]] = deque()
        for rows in wanted:
            ahead.append({name: self._reads[name](some) for name, some in rows.items()})
            if len(ahead) > READ_AHEAD:
                yield _arrived(ahead.popleft())
        while ahead:
            yield _arrived(ahead.popleft())


def _arrived(readings: Mapping[str, Reading]) -> Tensors:
    return {name: torch.from_numpy(reading.result()) for name, reading in readings.items()}


class _Held:
    """All used rows are in tensors; a row of the cache has its place in them."""

    def __init__(self, held: Tensors, rows: np.ndarray, device: torch.device) -> None:
        self._held = held
        self._device = device
        self._place = np.full(int(rows.max(initial=-1)) + 1, -1)
        self._place[rows] = np.arange(len(rows))

    def _places(self, rows: Rows) -> dict[str, np.ndarray]:
        return {name: self._place[some] for name, some in rows.items()}


class _InMemory(_Held):
    """In the host's memory, where each batch is gathered."""

    def tensors(self, wanted: Iterable[Rows]) -> Iterator[Tensors]:
        return _delivered(map(self._gathered, wanted), self._device)

    def _gathered(self, rows: Rows) -> Tensors:
        # NumPy gathers twice as fast as torch does
        places = self._places(rows)
        return {name: torch.from_numpy(self._held[name].numpy()[some]) for name, some in places.items()}


class _Pinned(_Held):
    """In the host's memory, from where the device fetches each row by itself: nothing is gathered on the host."""

    def __init__(self, held: Tensors, rows: np.ndarray, device: torch.device) -> None:
        super().__init__(held, rows, device)
        for tensor in held.values():
            _pin(tensor, device)
            weakref.finalize(self, torch.cuda.cudart().cudaHostUnregister, tensor.data_ptr())

    def tensors(self, wanted: Iterable[Rows]) -> Iterator[Tensors]:
        stream = _SideStream(self._device)
        return _one_ahead(stream.start(partial(self._fetched, rows)) for rows in wanted)

    def _fetched(self, rows: Rows) -> Tensors:
        return {name: self._fetch(self._held[name], places) for name, places in self._places(rows).items()}

    def _fetch(self, held: torch.Tensor, places: np.ndarray) -> torch.Tensor:
        whole = torch.empty((len(places), *held.shape[1:]), dtype=held.dtype, device=self._device)
        for row, place in zip(whole, places.tolist(), strict=True):
            row.copy_(held[place], non_blocking=True)
        return whole


class _OnDevice(_Held):
    """In the device's memory, where each batch is gathered: only row numbers travel."""

    def tensors(self, wanted: Iterable[Rows]) -> Iterator[Tensors]:
        for rows in wanted:
            yield {name: self._gather(name, places) for name, places in self._places(rows).items()}

    def _gather(self, name: str, places: np.ndarray) -> torch.Tensor:
        return self._held[name].index_select(0, torch.from_numpy(places).to(self._device))


def _delivered(arrays: Iterable[Tensors], device: torch.device) -> Iterator[Tensors]:
    """Tensors of the host on the device; to a GPU, one batch is copied while the one before is used."""
    if device.type != "cuda":
        return ({name: values.to(device) for name, values in some.items()} for some in arrays)
    stream = _SideStream(device)
    return _one_ahead(stream.start(partial(_staged, some, device)) for some in arrays)


def _staged(arrays: Tensors, device: torch.device) -> Tensors:
    # a buffer of pin_memory() is used again once its copy is done: torch keeps them, and an event for each
    return {name: values.pin_memory().to(device, non_blocking=True) for name, values in arrays.items()}


def _one_ahead(started: Iterable[Callable[[], Tensors]]) -> Iterator[Tensors]:
    """What each gives, called only when the next one has been started."""
    waiting: Callable[[], Tensors] | None = None
    for finish in started:
        if waiting is not None:
            yield waiting()
        waiting = finish
    if waiting is not None:
        yield waiting()


class _SideStream:
    """Copies to a GPU beside its computing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def start(self, copy: Callable[[], Tensors]) -> Callable[[], Tensors]:
        """Begin ``copy``; what is returned makes the computing that follows wait for it, and gives its tensors."""
        with torch.cuda.stream(self._stream):
            tensors = copy()
            copied = self._stream.record_event()

        def finish() -> Tensors:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(copied)
            for tensor in tensors.values():
                tensor.record_stream(computing)  # or its memory could be copied to again while it is in use
            return tensors

        return finish


def _load(read: Read, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """All of ``rows`` in one tensor, read a chunk at a time, so that memory holds them once and not twice."""
    first = torch.from_numpy(read(rows[:_CHUNK]).result())
    whole = torch.empty((len(rows), *first.shape[1:]), dtype=first.dtype, device=device)
    whole[: len(first)] = first
    for start in range(len(first), len(rows), _CHUNK):
        whole[start : start + _CHUNK] = torch.from_numpy(read(rows[start : start + _CHUNK]).result())
    return whole


def _pin(tensor: torch.Tensor, device: torch.device) -> None:
    """Fix the tensor's pages, so that a GPU can fetch from them.

    ``torch.empty(pin_memory=True)`` would take the next power of two of bytes, almost twice as many at worst.
    """
    with torch.cuda.device(device):  # else the first GPU would be made ready, too
        status = int(torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), tensor.nbytes, _PORTABLE))
    if status:
        raise UsageError(
            f"residency pinned: CUDA cannot pin {tensor.nbytes:,} bytes of host memory (cudaHostRegister says "
            f"{status}): choose --residency stream"
        )
