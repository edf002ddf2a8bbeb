"""Batches of cached features and targets on a device, in an order that depends on the protocol alone.

The training arrays live where they have room: in the GPU's memory, in the host's, or in the cache, from which batches
are read ahead. Every way gives the same bytes.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, tee
from pathlib import Path

import numpy as np
import torch

from deapcache.annotations import IMAGES, mirror
from deapcache.cache import Reading
from deapcache.errors import UsageError
from deapcache.machine import control_groups
from deapcache.probing.caches import FEATURES, GUIDANCE, MIRRORED, SplitCaches
from deapcache.probing.config import Residency

READ_AHEAD = 4
"""Batches that are being read while one is used."""

_CHUNK = 128
"""Rows read at a time when a whole split is read."""

_HOST_SHARE = 0.25
"""Part of the host's free memory that training arrays take unasked: others work there, and files are cached in it."""

_GPU_SHARE = 0.5
"""Part of a GPU's free memory that they take unasked: readouts, their activations and scoring need the rest."""

Tensors = dict[str, torch.Tensor]
"""Name of an array → rows of it, (n, ...)."""

Rows = Mapping[str, np.ndarray]
"""Name of an array → the rows wanted of it, (n,)."""


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

    def epochs() -> Iterator[np.ndarray]:
        epoch = 0
        while True:
            yield np.random.default_rng([order_seed, epoch]).permutation(draws)
            epoch += 1

    images = chain.from_iterable(epochs())
    for _ in range(iterations):
        yield np.fromiter(images, dtype=draws.dtype, count=batch_size)


def sequential(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """``rows`` once, in order."""
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


def channel_statistics(stream: BatchStream, rows: np.ndarray, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel over all cells of ``rows``, (D',) float32, from one pass.

    Batches are joined in float64 (Chan, Golub and LeVeque 1983), so that the sums of large caches lose nothing.
    """
    count, mean, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for features in stream.features(sequential(rows, batch_size)):
        cells = features.flatten(0, 2).double()
        own = cells.mean(0)
        gap, share = own.cpu() - mean, len(cells) / (count + len(cells))
        squares = squares + (cells - own).square().sum(0).cpu() + gap.square() * (count * share)
        mean, count = mean + gap * share, count + len(cells)
    return mean.float(), (squares / max(1, count)).sqrt().float()


def outlier_ratio(mean: torch.Tensor, std: torch.Tensor) -> float:
    """Root mean square of the largest channel over that of all channels: 1 where all are alike.

    Massive activations (Sun et al. 2024, "Massive activations in large language models") show here.
    """
    squares = mean.double().square() + std.double().square()
    return math.sqrt(float(squares.max() / squares.mean().clamp(min=1e-300)))


class BatchStream:
    """Features and targets of a split as batches on a device.

    Where ``residency`` is ``None``, the arrays live in the first place that has room for them
    (:func:`choose_residency`). All but ``stream`` read every used row now, once. Targets and base images are kept once,
    as they are of the original images, and mirrored on the device for those of a batch that are drawn as mirror images.
    """

    def __init__(self, caches: SplitCaches, residency: Residency | None, device: torch.device) -> None:
        self.residency: Residency = residency or "stream"
        if residency != "stream":
            self.residency = choose_residency(caches.decoded_bytes(), residency, *free_memory(device))
        self._device = device
        self.images = len(caches.features)
        """Rows of the caches: a draw is a row, plus this number where its mirror image is meant."""
        self._names = (FEATURES, *caches.others)
        self._reads: dict[str, Callable[[np.ndarray], Reading]]
        self._reads = {name: cache.read_features_async for name, cache in caches.feature_views.items()}
        self._reads |= {name: cache.read_async for name, cache in caches.others.items()}
        self._arrays: Tensors = {}
        if self.residency != "stream":
            where = device if self.residency == "gpu" else torch.device("cpu")
            self._arrays = {name: _read_all(read, caches.rows, where) for name, read in self._reads.items()}
            self._places = np.full(int(caches.rows.max(initial=-1)) + 1, -1)  # row of the cache → row of these tensors
            self._places[caches.rows] = np.arange(len(caches.rows))

    def batches(self, order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """One :class:`Batch` for each array of draws in ``order``."""
        for rows, tensors in self._read(order, self._names):
            yield Batch(rows, tensors.pop(FEATURES), tensors, tensors.pop(GUIDANCE, None))

    def features(self, order: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        """(B, H, W, D) for each array of draws in ``order``; nothing else is read."""
        return (tensors[FEATURES] for _, tensors in self._read(order, (FEATURES,)))

    def maps(self, annotations: Sequence[str], order: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensors]]:
        """(rows, annotation → targets) for each array of draws in ``order``; features are not read."""
        return self._read(order, annotations)

    def _read(self, order: Iterable[np.ndarray], names: Sequence[str]) -> Iterator[tuple[np.ndarray, Tensors]]:
        order, ahead = tee(order)
        wanted = (self._wanted(draws, names) for draws in ahead)
        for draws, tensors in zip(order, self._tensors(wanted), strict=True):
            yield draws % self.images, apply_hflip(tensors, names, draws >= self.images)

    def _wanted(self, draws: np.ndarray, names: Sequence[str]) -> Rows:
        rows, mirrored = draws % self.images, draws >= self.images
        wanted = dict.fromkeys(names, rows)
        if FEATURES in wanted and mirrored.any():
            wanted |= {FEATURES: rows[~mirrored], MIRRORED: rows[mirrored]}
        return wanted

    def _tensors(self, wanted: Iterable[Rows]) -> Iterator[Tensors]:
        """The wanted rows of each batch on the device; to a GPU, one batch is copied while the one before is used."""
        if self.residency == "gpu":
            return map(self._gather_on_device, wanted)
        gathered = self._read_ahead(wanted) if self.residency == "stream" else map(self._gather, wanted)
        if self._device.type != "cuda":
            return ({name: rows.to(self._device) for name, rows in tensors.items()} for tensors in gathered)
        stream = torch.cuda.Stream(self._device)
        return one_ahead(_start_copy(tensors, self._device, stream) for tensors in gathered)

    def _read_ahead(self, wanted: Iterable[Rows]) -> Iterator[Tensors]:
        ahead: deque[dict[str, Reading]] = deque()
        for rows in wanted:
            ahead.append({name: self._reads[name](some) for name, some in rows.items()})
            if len(ahead) > READ_AHEAD:
                yield {name: torch.from_numpy(reading.result()) for name, reading in ahead.popleft().items()}
        while ahead:
            yield {name: torch.from_numpy(reading.result()) for name, reading in ahead.popleft().items()}

    def _gather(self, wanted: Rows) -> Tensors:
        # NumPy gathers twice as fast as torch does
        arrays = {name: self._arrays[name].numpy() for name in wanted}
        return {name: torch.from_numpy(arrays[name][self._places[rows]]) for name, rows in wanted.items()}

    def _gather_on_device(self, wanted: Rows) -> Tensors:
        places = {name: torch.from_numpy(self._places[rows]).to(self._device) for name, rows in wanted.items()}
        return {name: self._arrays[name].index_select(0, some) for name, some in places.items()}


def _read_all(read: Callable[[np.ndarray], Reading], rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """All of ``rows`` in one tensor, read a chunk at a time, so that memory holds them once and not twice."""
    first = torch.from_numpy(read(rows[:_CHUNK]).result())
    whole = torch.empty((len(rows), *first.shape[1:]), dtype=first.dtype, device=device)
    whole[: len(first)] = first
    for start in range(len(first), len(rows), _CHUNK):
        whole[start : start + _CHUNK] = torch.from_numpy(read(rows[start : start + _CHUNK]).result())
    return whole


def one_ahead(started: Iterable[Callable[[], Tensors]]) -> Iterator[Tensors]:
    """The tensors of each copy; it is waited for only when the next one has been started."""
    waiting: Callable[[], Tensors] | None = None
    for finish in started:
        if waiting is not None:
            yield waiting()
        waiting = finish
    if waiting is not None:
        yield waiting()


def _start_copy(tensors: Tensors, device: torch.device, stream: torch.cuda.Stream) -> Callable[[], Tensors]:
    """Begin to copy to a GPU beside its computing; the function returned makes what is computed then wait for it."""
    with torch.cuda.stream(stream):
        # torch reuses a buffer of pin_memory() once its copy is done
        copies = {name: rows.pin_memory().to(device, non_blocking=True) for name, rows in tensors.items()}
        copied = stream.record_event()

    def finish() -> Tensors:
        computing = torch.cuda.current_stream(device)
        computing.wait_event(copied)
        for tensor in copies.values():
            tensor.record_stream(computing)  # or torch could reuse its memory while it is in use
        return copies

    return finish


def apply_hflip(tensors: Tensors, names: Sequence[str], mirrored: np.ndarray) -> Tensors:
    """The arrays ``names`` of a batch, of which the images at the places ``mirrored`` (B,) are mirror images.

    Features of these come from ``MIRRORED``; whatever else belongs to them is mirrored here, on its device.
    """
    if not mirrored.any():
        return {name: tensors[name] for name in names}
    flipped: Tensors = {}
    for name in names:
        values = tensors[name]
        places = torch.from_numpy(np.flatnonzero(mirrored)).to(values.device)
        if name == FEATURES:
            others = torch.from_numpy(np.flatnonzero(~mirrored)).to(values.device)
            whole = values.new_empty((len(mirrored), *values.shape[1:]))
            flipped[name] = whole.index_copy_(0, others, values).index_copy_(0, places, tensors[MIRRORED])
        else:
            flipped[name] = values.index_copy(
                0, places, mirror(IMAGES if name == GUIDANCE else name, values.index_select(0, places))
            )
    return flipped


def choose_residency(needed: int, asked: Residency | None, host: int, gpu: int | None) -> Residency:
    """Where training arrays of ``needed`` bytes live: as asked for, or in the first place that has room.

    ``gpu`` where they fit in half of a GPU's free memory (``None``: there is none), ``memory`` where they fit in a
    quarter of the host's, else ``stream``. All training arrays, of features, targets and base images, are in one place.

    Raises :class:`UsageError` where they do not fit in the ``host``'s or ``gpu``'s free bytes as asked for.
    """
    if asked == "stream":
        return asked
    if asked is None:
        if gpu is not None and needed <= gpu * _GPU_SHARE:
            return "gpu"
        return "memory" if needed <= host * _HOST_SHARE else "stream"
    room, where = (gpu, "GPU memory") if asked == "gpu" else (host, "host memory")
    if room is not None and needed > room:
        raise UsageError(
            f"residency {asked}: the training arrays take {needed:,} bytes, and {room:,} bytes of {where} are "
            "free: choose --residency stream, train on fewer images (--limit), or leave the choice to deapcache"
        )
    return asked


def free_memory(device: torch.device) -> tuple[int, int | None]:
    """Free bytes of this host and of ``device``; ``None`` for a device that shares the host's memory."""
    return free_host_memory(), torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def free_host_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can take without swapping, and without passing the limit of any of its control groups.

    Slurm, Kubernetes and Docker limit a job's memory by such a group (``memory.max``, or ``memory.limit_in_bytes`` of
    the first version), and end a job that passes it, however much the machine has left. ``root`` is where ``proc`` and
    ``sys`` lie.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = 1024 * int(dict(line.split(":", 1) for line in lines)["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        # macOS does not say what is available, only how much memory it has
        pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
        free = os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    return max(0, min([free, *(room for group in control_groups("memory", root) for room in _free_in_group(group))]))


def _free_in_group(group: Path) -> Iterator[int]:
    """Bytes left below each limit of one group; those of file pages that it gives up first are free."""

    def number(name: str) -> int | None:  # None where there is no such file or no limit (max)
        try:
            return int((group / name).read_text())
        except (OSError, ValueError):
            return None

    def statistic(name: str) -> int:
        try:
            lines = (group / "memory.stat").read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)

    for limit, usage, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.high", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, used = number(limit), number(usage)
        if most is not None and used is not None:
            yield most - used + statistic(reclaimable)
