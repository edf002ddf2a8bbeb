"""The extraction loop: reading ahead, the forward pass, and writing behind, all at the same time.

The unit of work is one shard. Its images are read while earlier ones are forwarded; when its last batch has left the
device, another thread checks, compresses and publishes it whole. A batch never straddles shards, so the bytes of a
shard do not depend on where an interrupted run stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from deapcache.allocator import keep_freed_memory
from deapcache.backbones import Backbone, Output
from deapcache.cache import FeatureCache, encode_cls, encode_features
from deapcache.extraction.progress import Watch
from deapcache.extraction.sources import Batch, ImageSource

READ_AHEAD = 3
"""Batches whose images are asked for before they are needed."""

SHARDS_IN_FLIGHT = 2
"""Shards that may be checked, compressed and published while the next one is computed."""


@dataclass(frozen=True)
class _Work:
    shard: int
    rows: range
    last: bool


def extract_shards(
    caches: Sequence[FeatureCache],
    shards: Iterable[int],
    backbone: Backbone,
    source: ImageSource,
    *,
    batch_size: int,
    watch: Watch = Watch(),  # noqa: B008 - it has no state
    computed: Callable[[], None] = lambda: None,
) -> int:
    """Compute and publish ``shards`` of ``caches``, which are asked for one by one; returns the images written.

    ``caches`` are those of the layers that ``backbone`` gives from one forward, in its order, with equal shards. A
    shard is said to be published when it is in all of them.

    ``computed`` is called when all is forwarded and the last of it is still being published.

    Raises :class:`deapcache.errors.FeatureError` for features that must not be stored, and whatever reading or
    publishing raises. On any error or on Ctrl-C, shards published until then stay, and nothing else is left.
    """
    writer = ThreadPoolExecutor(SHARDS_IN_FLIGHT)
    try:
        work = _work(caches[0], shards, batch_size)
        with keep_freed_memory():
            return _Loop(caches, backbone, writer, watch).run(_read_ahead(source, work), computed)
    finally:
        writer.shutdown(wait=True, cancel_futures=True)


def _work(cache: FeatureCache, shards: Iterable[int], batch_size: int) -> Iterator[_Work]:
    for shard in shards:
        rows = cache.shard_rows(shard)
        for start in range(rows.start, rows.stop, batch_size):
            stop = min(start + batch_size, rows.stop)
            yield _Work(shard, range(start, stop), stop == rows.stop)


def _read_ahead(source: ImageSource, work: Iterable[_Work]) -> Iterator[tuple[_Work, Batch]]:
    ahead: deque[tuple[_Work, Batch]] = deque()
    for item in work:
        ahead.append((item, source.request(item.rows)))
        if len(ahead) > READ_AHEAD:
            yield ahead.popleft()
    yield from ahead


class _Buffer(NamedTuple):
    """Room for one shard of one cache."""

    features: torch.Tensor
    cls: torch.Tensor | None


_Buffers = tuple[_Buffer, ...]
"""One for each cache."""


class _Loop:
    """The state of one run of the loop."""

    def __init__(
        self, caches: Sequence[FeatureCache], backbone: Backbone, writer: ThreadPoolExecutor, watch: Watch
    ) -> None:
        self._caches = caches
        self._backbone = backbone
        self._writer = writer
        self._watch = watch
        self._device = backbone.device
        self._dtype = torch.float16 if caches[0].storage == "float16" else torch.float32
        self._free: list[_Buffers] = []
        self._publishing: deque[tuple[_Buffers, Future[None]]] = deque()

    def run(self, batches: Iterator[tuple[_Work, Batch]], computed: Callable[[], None]) -> int:
        done = 0
        for work, batch in batches:
            rows = self._caches[0].shard_rows(work.shard)
            start = work.rows.start - rows.start
            place = slice(start, start + len(work.rows))
            for buffer, output in zip(self._buffers(), self._forward(batch.result()), strict=True):
                # float16 storage: a value beyond its range turns infinite here and is refused when it is encoded
                buffer.features[place].copy_(output.features.to(self._dtype), non_blocking=True)
                if buffer.cls is not None and output.cls is not None:
                    buffer.cls[place].copy_(output.cls, non_blocking=True)
            done += len(work.rows)
            if work.last:
                self._hand_over(work.shard, self._free.pop(), len(rows))
            self._watch.forwarded(len(work.rows))
        computed()
        while self._publishing:
            self._reclaim()
        return done

    def _forward(self, images: np.ndarray) -> tuple[Output, ...]:
        pixels = torch.from_numpy(images)
        if self._device.type == "cuda":
            pixels = pixels.pin_memory()
        return self._backbone.outputs(pixels.to(self._device, non_blocking=True))

    def _hand_over(self, shard: int, buffers: _Buffers, images: int) -> None:
        copied = torch.cuda.Event() if self._device.type == "cuda" else None
        if copied is not None:
            copied.record()
        self._publishing.append((buffers, self._writer.submit(self._publish, shard, buffers, images, copied)))
        while len(self._publishing) > SHARDS_IN_FLIGHT or (self._publishing and self._publishing[0][1].done()):
            self._reclaim()

    def _publish(self, shard: int, buffers: _Buffers, images: int, copied: torch.cuda.Event | None) -> None:
        if copied is not None:
            copied.synchronize()
        ids = [self._caches[0].image_ids[row] for row in self._caches[0].shard_rows(shard)]
        size = 0
        for cache, buffer in zip(self._caches, buffers, strict=True):
            arrays = encode_features(buffer.features[:images].numpy(), cache.storage, ids)
            if buffer.cls is not None:
                arrays |= encode_cls(buffer.cls[:images].numpy(), cache.storage, ids)
            cache.write_shard(shard, arrays)
            size += sum(array.nbytes for array in arrays.values())
        self._watch.published(shard, size)

    def _reclaim(self) -> None:
        buffers, published = self._publishing.popleft()
        published.result()
        self._free.append(buffers)

    def _buffers(self) -> _Buffers:
        """Where the shard that is being forwarded is gathered; as many are made as are in use at once."""
        if not self._free:
            self._free.append(tuple(map(self._new_buffer, self._caches)))
        return self._free[-1]

    def _new_buffer(self, cache: FeatureCache) -> _Buffer:
        pinned, images = self._device.type == "cuda", cache.shard_images
        features = torch.empty((images, *cache.grid, cache.dim), dtype=self._dtype, pin_memory=pinned)
        return _Buffer(features, torch.empty((images, cache.dim), pin_memory=pinned) if cache.has_cls else None)
