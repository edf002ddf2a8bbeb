"""What a worker of a cluster does: one shard a task, with a model that stays in its memory from task to task."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch

from deapcache.backbones import Backbone, BackboneIdentity, BatchNormStatistics, LayerSelection, build
from deapcache.cache import FeatureCache, open_cache
from deapcache.datasets import Dataset
from deapcache.errors import ClusterError, WeightsError
from deapcache.extraction.circumstances import circumstances, new_writer_name
from deapcache.extraction.pipeline import SHARDS_IN_FLIGHT, extract_shards
from deapcache.extraction.prepare import PreparedSplit
from deapcache.extraction.progress import Watch
from deapcache.extraction.settings import choose_device, default_batch_size
from deapcache.extraction.sources import ImageSource
from deapcache.extraction.views import image_source
from deapcache.locations import Location


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker must know to compute any shard of one cache, or of those of several layers."""

    name: str
    """No other job has it."""
    version: str
    """Of deapcache, which must be the worker's."""
    features: tuple[Location, ...]
    """One cache for each layer that is kept."""
    images: Location | None
    """Base images; None with native base size."""
    dataset: Dataset
    split: str
    fit: str
    view: str
    images_digest: str
    identities: tuple[BackboneIdentity, ...]
    selection: LayerSelection
    statistics: BatchNormStatistics | None
    """Batch-norm statistics of an untrained backbone: all workers have those of the process that wrote the recipe."""
    weights: Path | None
    precision: str
    device: str
    batch_size: int | None


@dataclass(frozen=True, kw_only=True)
class Done:
    """A shard that a worker has published, or found."""

    shard: int
    images: int
    bytes: int
    """0 where the shard was there: a worker that died may have published it with its last breath."""
    writer: str
    """The worker and the job, for the cache's provenance."""
    facts: dict[str, Any]


class _Ready:
    """A job whose model and caches are in this process's memory."""

    def __init__(self, job: Job) -> None:
        _require_same_version(job)
        device = worker_device(job.device)
        self.caches = [cast(FeatureCache, open_cache(location)) for location in job.features]
        self.backbone = _build(job).to(device)
        self.batch_size = job.batch_size or default_batch_size(device)
        self.writer = new_writer_name()
        self.facts = circumstances(device, self.batch_size)
        self.source = self._source(job)

    def _source(self, job: Job) -> ImageSource:
        prepared = PreparedSplit(
            dataset=job.dataset,
            split=job.split,
            image_ids=self.caches[0].image_ids,
            images_digest=job.images_digest,
            images=None if job.images is None else open_cache(job.images),
            fit=job.fit,
            view=job.view,
        )
        return image_source(prepared, self.backbone.image_size)


_READY: dict[str, _Ready] = {}
"""The last job of this process: another one's model would not fit beside it."""

_MODEL = threading.Lock()
_SPACE = threading.Semaphore(SHARDS_IN_FLIGHT + 1)
"""Shards in memory: one is forwarded while earlier ones are published."""


def compute_shard(job: Job, shard: int) -> Done:
    """Forward and publish one shard; while it is published, the worker may begin with the next one.

    Raises what building, reading, forwarding and publishing raise, and :class:`ClusterError` where this worker has
    another version of deapcache.
    """
    sizes: list[int] = []
    with _SPACE, ExitStack() as model:
        model.enter_context(_MODEL)
        ready = _ready(job)
        rows = ready.caches[0].shard_rows(shard)
        if any(cache.missing_shards(rows) for cache in ready.caches):
            extract_shards(
                ready.caches,
                [shard],
                ready.backbone,
                ready.source,
                batch_size=ready.batch_size,
                watch=Watch(published=lambda _, size: sizes.append(size)),
                computed=lambda: _let_the_next_begin(model),
            )
    return Done(shard=shard, images=len(rows), bytes=sum(sizes), writer=ready.writer, facts=ready.facts)


def keep(job: Job) -> Job:
    """A job as a task of its own: workers fetch it once, and it is made again where it was lost."""
    return job


def forget_models() -> None:
    """Free what this process keeps from task to task."""
    with _MODEL:
        _forget()


def _forget() -> None:
    _READY.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _let_the_next_begin(model: ExitStack) -> None:
    from distributed import secede

    model.close()
    secede()


def _ready(job: Job) -> _Ready:
    if job.name not in _READY:
        _forget()
        _READY[job.name] = _Ready(job)
    return _READY[job.name]


def _build(job: Job) -> Backbone:
    expected = job.identities[0]
    backbone = build(expected.backbone, weights=job.weights, precision=job.precision, selection=job.selection)
    if backbone.identities != job.identities:
        raise WeightsError(
            f"backbone {backbone.name} has the weights {backbone.identity.weights} on a worker, expected "
            f"{expected.weights}: give all workers the same files, and the same versions of torch and timm"
        )
    if job.statistics is not None:
        backbone.adopt(job.statistics)
    return backbone


def _require_same_version(job: Job) -> None:
    here = version("deapcache")
    if here != job.version:
        raise ClusterError(
            f"a worker has deapcache {here}, this process has {job.version}: install the same version everywhere"
        )


def worker_device(name: str) -> torch.device:
    """The device of this worker: of several GPUs that it sees, the one that falls to it among the workers of its host.

    Workers that were started with one GPU each (``CUDA_VISIBLE_DEVICES``) take that one.
    """
    device = choose_device(name)
    if device.type == "cuda" and device.index is None and torch.cuda.device_count() > 1:
        return torch.device("cuda", _own_gpu(torch.cuda.device_count()))
    return device


def _own_gpu(gpus: int) -> int:
    from distributed import get_worker
    from distributed.utils import sync

    worker = get_worker()
    known = sync(worker.loop, worker.scheduler.identity)["workers"]
    return gpu_of(worker.address, list(known), gpus)


def gpu_of(address: str, addresses: Sequence[str], gpus: int) -> int:
    """The GPU of the worker at ``address``, when the workers of one host take its GPUs in turn."""
    host = address.rpartition(":")[0]
    return sorted(each for each in addresses if each.rpartition(":")[0] == host).index(address) % gpus
