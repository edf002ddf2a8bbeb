"""The extraction loop: it reads ahead, runs the forward pass, and writes behind, all at the same time.

The unit of work is one shard. The loop reads its images while it forwards earlier ones; when the last batch of a shard
has left the device, another thread checks, compresses and publishes it whole. A batch never straddles shards, so the
bytes of a shard do not depend on where an interrupted run stopped.

The images come from the cached base images, or from the files at their own size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from deapcache.backbones import Backbone
from deapcache.cache import HFLIP, Cache, FeatureCache, Reading, encode_cls, encode_features, mirror, open_cache
from deapcache.datasets import Dataset, resize_image
from deapcache.extraction.images_targets import IMAGES, PreparedSplit
from deapcache.extraction.settings import ExtractionSettings, default_batch_size, suggest_skipping
from deapcache.machine import cpu_count, keep_freed_memory
from deapcache.openmp import sleep_if_cores_are_short

CALIBRATION_IMAGES = 64
"""Training images on which the batch-norm statistics of an untrained backbone are estimated."""

READ_AHEAD = 3
"""Batches whose images are requested before they are needed."""

SHARDS_IN_FLIGHT = 2
"""Shards that may be checked, compressed and published while the next one is computed."""


class ImageSource(Protocol):
    """Gives batches of images by row; a worker process can unpickle it."""

    def request(self, rows: Sequence[int]) -> Reading:
        """Start to read ``rows``; the result is (n, h, w, 3) uint8 RGB."""
        ...


class CachedImages:
    """Base images from their cache."""

    def __init__(self, cache: Cache) -> None:
        self._location = cache.location
        self._cache: Cache | None = cache

    def request(self, rows: Sequence[int]) -> Reading:
        """Start to read ``rows`` of the base-image cache."""
        if self._cache is None:
            self._cache = open_cache(self._location)
        return self._cache.read_async(rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}  # a worker opens the cache itself, a scheduler never does


class NativeImages:
    """Files decoded at their own size and resized straight to the backbone's (``--base-size native``)."""

    def __init__(self, dataset: Dataset, split: str, image_size: tuple[int, int], fit: str) -> None:
        self._arguments = dataset, split, image_size, fit
        self._pool = ThreadPoolExecutor(cpu_count())

    def request(self, rows: Sequence[int]) -> Reading:
        """Start to decode ``rows``."""
        images = [self._pool.submit(self._read, row) for row in rows]
        return Reading(lambda: np.stack([image.result() for image in images]))

    def _read(self, row: int) -> np.ndarray:
        dataset, split, image_size, fit = self._arguments
        with suggest_skipping():
            return resize_image(dataset.picture(split, row), image_size, fit)

    def __reduce__(self) -> Any:
        return NativeImages, self._arguments


class MirroredImages:
    """The images of another source, mirrored left to right: one stored copy serves both views."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def request(self, rows: Sequence[int]) -> Reading:
        """Start to read ``rows``."""
        batch = self._source.request(rows)
        return Reading(lambda: mirror(IMAGES, batch.result()))


def in_view(source: ImageSource, view: str) -> ImageSource:
    """The images of ``source`` in an augmentation view."""
    return MirroredImages(source) if view == HFLIP else source


def image_source(prepared: PreparedSplit, image_size: tuple[int, int]) -> ImageSource:
    """The images of a split, in its view, for a backbone whose images have ``image_size`` (height, width)."""
    if prepared.images is None:
        return in_view(NativeImages(prepared.dataset, prepared.split, image_size, prepared.fit), prepared.view)
    return in_view(CachedImages(prepared.images), prepared.view)


def calibrate(backbone: Backbone, source: ImageSource, images: int, images_digest: str) -> str:
    """Estimate the batch-norm statistics of an untrained backbone on the first of ``images`` images of an image set.

    Returns what the recipe of its features says about it.
    """
    rows = range(min(images, CALIBRATION_IMAGES))
    batches = (rows[start : start + 16] for start in range(0, len(rows), 16))
    backbone.calibrate(torch.from_numpy(source.request(some).result()) for some in batches)
    return f"batch norm from the first {len(rows)} images of {images_digest}"


OnForward = Callable[[int], None]
"""Gets a number of images that went through the backbone; from any thread."""

OnPublish = Callable[[int, int], None]
"""Gets a shard that is in all caches, and its bytes; from any thread."""


@dataclass(frozen=True, kw_only=True)
class FeatureJob:
    """Features to compute: from which images, by which backbone, into which caches."""

    caches: Sequence[FeatureCache]
    """Those of the layers that ``backbone`` gives from one forward, in its order, with equal shards."""
    backbone: Backbone
    """Built and calibrated."""
    source: ImageSource
    settings: ExtractionSettings

    @property
    def batch_size(self) -> int:
        """Images in one forward pass on the backbone's device."""
        return self.settings.batch_size or default_batch_size(self.backbone.device)


@sleep_if_cores_are_short()
def extract_shards(
    job: FeatureJob,
    shards: Iterable[int],
    *,
    on_forward: OnForward = lambda _: None,
    on_publish: OnPublish = lambda *_: None,
    on_all_forwarded: Callable[[], None] = lambda: None,
) -> int:
    """Compute and publish ``shards`` of the job's caches; returns the number of images written.

    ``shards`` is read one by one, as the loop gets to each.

    ``on_all_forwarded`` is called while the last shards are still being published.

    Raises :class:`deapcache.errors.FeatureError` for features that must not be stored, and whatever reading or
    publishing raises. On any error or on Ctrl-C, shards published until then stay, and nothing else is left.
    """
    writer = ThreadPoolExecutor(SHARDS_IN_FLIGHT)
    try:
        with keep_freed_memory():
            loop = _Loop(job, writer, on_publish)
            for shard, rows, images in _read_ahead(job, shards):
                loop.forward(shard, rows, images.result())
                on_forward(len(rows))
            on_all_forwarded()
            return loop.finish()
    finally:
        writer.shutdown(wait=True, cancel_futures=True)


def _read_ahead(job: FeatureJob, shards: Iterable[int]) -> Iterator[tuple[int, range, Reading]]:
    """The batches of each shard: the shard, the batch's rows and their images, requested some batches before."""
    ahead: deque[tuple[int, range, Reading]] = deque()
    for shard in shards:
        rows = job.caches[0].shard_rows(shard)
        for start in range(rows.start, rows.stop, job.batch_size):
            some = range(start, min(start + job.batch_size, rows.stop))
            ahead.append((shard, some, job.source.request(some)))
            if len(ahead) > READ_AHEAD:
                yield ahead.popleft()
    yield from ahead


_Buffers = Sequence[tuple[torch.Tensor, torch.Tensor | None]]
"""Room for one shard of each cache: features, and class tokens where they are kept."""


class _Loop:
    """The buffers of one run of the loop: those that fill, and those whose shard is being published."""

    def __init__(self, job: FeatureJob, writer: ThreadPoolExecutor, on_publish: OnPublish) -> None:
        self._caches = job.caches
        self._backbone = job.backbone
        self._writer = writer
        self._on_publish = on_publish
        self._device = job.backbone.device
        self._dtype = torch.float16 if job.caches[0].storage == "float16" else torch.float32
        self._free: list[_Buffers] = []
        self._publishing: deque[tuple[_Buffers, Future[None]]] = deque()
        self._images = 0

    def forward(self, shard: int, rows: range, images: np.ndarray) -> None:
        """Forward ``images`` (n, h, w, 3) uint8; hand the shard over to the writer after its last batch."""
        shard_rows = self._caches[0].shard_rows(shard)
        place = slice(rows.start - shard_rows.start, rows.stop - shard_rows.start)
        on_gpu = self._device.type == "cuda"
        if not self._free:  # as many buffers exist as are in use at once
            self._free.append([_new_buffer(cache, self._dtype, pinned=on_gpu) for cache in self._caches])
        pixels = torch.from_numpy(images)
        if on_gpu:
            pixels = pixels.pin_memory()
        outputs = self._backbone.outputs(pixels.to(self._device, non_blocking=True))
        for (features, cls), output in zip(self._free[-1], outputs, strict=True):
            # float16 storage: a value beyond its range turns infinite here, and encoding refuses it
            features[place].copy_(output.features.to(self._dtype), non_blocking=True)
            if cls is not None and output.cls is not None:
                cls[place].copy_(output.cls, non_blocking=True)
        self._images += len(rows)
        if rows.stop == shard_rows.stop:
            self._hand_over(shard, self._free.pop(), len(shard_rows))

    def finish(self) -> int:
        """Wait until all shards are published; the number of images forwarded."""
        while self._publishing:
            self._reclaim()
        return self._images

    def _hand_over(self, shard: int, buffers: _Buffers, images: int) -> None:
        copied = torch.cuda.Event() if self._device.type == "cuda" else None
        if copied is not None:
            copied.record(torch.cuda.current_stream(self._device))  # the default is that of the first GPU
        self._publishing.append((buffers, self._writer.submit(self._publish, shard, buffers, images, copied)))
        while len(self._publishing) > SHARDS_IN_FLIGHT or (self._publishing and self._publishing[0][1].done()):
            self._reclaim()

    def _publish(self, shard: int, buffers: _Buffers, images: int, copied: torch.cuda.Event | None) -> None:
        if copied is not None:
            copied.synchronize()
        ids = [self._caches[0].image_ids[row] for row in self._caches[0].shard_rows(shard)]
        size = 0
        for cache, (features, cls) in zip(self._caches, buffers, strict=True):
            arrays = encode_features(features[:images].numpy(), cache.storage, ids)
            if cls is not None:
                arrays |= encode_cls(cls[:images].numpy(), cache.storage, ids)
            cache.write_shard(shard, arrays)
            size += sum(array.nbytes for array in arrays.values())
        self._on_publish(shard, size)

    def _reclaim(self) -> None:
        buffers, published = self._publishing.popleft()
        published.result()
        self._free.append(buffers)


def _new_buffer(cache: FeatureCache, dtype: torch.dtype, *, pinned: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    images = cache.shard_images
    features = torch.empty((images, *cache.grid, cache.dim), dtype=dtype, pin_memory=pinned)
    return features, torch.empty((images, cache.dim), pin_memory=pinned) if cache.has_cls else None
