"""Features computed by the workers of a Dask cluster: one that is there, or one of this machine's own.

This process divides the shards and claims them; each task of a worker forwards and publishes one shard, with a model
that stays in the worker's memory from task to task. Dask replaces a worker that dies, and its shards are done again:
they are published whole or not at all.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, cast

import torch

from deapcache.backbones import Backbone, BackboneIdentity, BatchNormStatistics, build
from deapcache.cache import FeatureCache, open_cache
from deapcache.errors import ClusterError, DeapcacheError, UsageError, WeightsError
from deapcache.extraction.claims import Batches
from deapcache.extraction.create import ProvenanceRecord, new_writer_name, provenance_facts
from deapcache.extraction.pipeline import (
    SHARDS_IN_FLIGHT,
    FeatureJob,
    ImageSource,
    OnForward,
    OnPublish,
    extract_shards,
)
from deapcache.extraction.settings import ExtractionSettings, choose_device
from deapcache.locations import Location
from deapcache.machine import cpu_count
from deapcache.processes import GUARD, follow_parent, refuse_unguarded, spawning

INSTALL = "pip install 'deapcache[cluster]'"

_AHEAD = 2
"""Tasks per worker thread to submit before they can begin, so that no worker waits for this process."""

_CONNECT_SECONDS = 30


def default_workers(device: str) -> int:
    """Workers where the user does not say: one for each GPU if there are several, else 0, which is this process."""
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return gpus if gpus > 1 and find_spec("distributed") is not None else 0


@contextmanager
def open_cluster(
    *, scheduler: str | None = None, workers: int = 0, device: str = "auto", say: Callable[[str], None] = lambda _: None
) -> Iterator[Cluster]:
    """The cluster at the address ``scheduler``, else one of ``workers`` processes on this machine, for as long as
    the block.

    Each local worker has a GPU of its own where there are as many, else they take them in turn; on a CPU they share the
    cores. ``say`` gets a sentence for the user when the cluster has no worker yet. Raises :class:`UsageError` where the
    package ``distributed`` is missing and :class:`ClusterError` where the scheduler cannot be reached.
    """
    refuse_unguarded()
    if find_spec("distributed") is None:
        raise UsageError(f"workers and schedulers need the package distributed, which is not installed: {INSTALL}")
    from distributed import Client
    from distributed.utils import silence_logging_cmgr

    with ExitStack() as opened:
        # Dask logs the loss of a scheduler with a traceback; here it becomes an error of one line.
        opened.enter_context(silence_logging_cmgr(logging.CRITICAL))
        address: Any = scheduler
        if scheduler is None:
            opened.enter_context(spawning())
            try:
                address = opened.enter_context(_local_cluster(workers, device))
            except RuntimeError as error:
                raise ClusterError(
                    f"workers of this machine could not be started ({error}): each of them runs the script that "
                    f"starts it again, so {GUARD}"
                ) from None
        try:
            client = opened.enter_context(Client(address, timeout=_CONNECT_SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ClusterError(
                f"no Dask scheduler answers at {scheduler}: {reason}. Give the address that `dask scheduler` prints, "
                "such as tcp://10.0.0.1:8786, or --workers N for workers on this machine"
            ) from None
        if scheduler is None:
            client.register_plugin(_follow_parent_plugin())
        elif not client.scheduler_info()["workers"]:
            say(f"waits for the first worker of {scheduler}")
            client.wait_for_workers(1)
        yield Cluster(client, device)


class Cluster:
    """The executor that computes on the workers of a cluster; :func:`open_cluster` makes it."""

    def __init__(self, client: Any, device: str) -> None:
        self.client = client
        self.device = device
        """As the user named it; each worker finds its own."""

    def compute(self, job: FeatureJob, batches: Batches, on_forward: OnForward, on_publish: OnPublish) -> None:
        """Submit the shards one by one, and record which worker did which."""
        sent = _worker_job(job)
        with ExitStack() as open_records:
            records: dict[str, list[ProvenanceRecord]] = {}
            for shards in batches:
                with cluster_errors():  # each worker fetches the job once: it is a task of its own
                    submitted = self.client.submit(_same_job, sent, key=f"deapcache-job-{sent.name}")
                calls = ((compute_shard, submitted, shard) for shard in shards)
                for shard, images, size, writer, facts in self.run(calls, name=sent.name):
                    if size and writer not in records:
                        records[writer] = [
                            open_records.enter_context(ProvenanceRecord(cache, writer, facts)) for cache in job.caches
                        ]
                    for record in records[writer] if size else ():
                        record.add(shard)
                    on_publish(shard, size)
                    on_forward(images)
                submitted.release()

    def run(self, calls: Iterable[tuple[Any, ...]], *, name: str) -> Iterator[Any]:
        """The results of ``calls``, each a function and its arguments, as they end; task names begin with ``name``.

        Raises what a call raises, and :class:`ClusterError` where workers die again and again or the scheduler is gone.
        On an error or Ctrl-C it cancels what has not ended.
        """
        from distributed import as_completed

        numbered = enumerate(calls)
        running = as_completed([], loop=self.client.loop, raise_errors=False)
        under_way: set[Any] = set()
        try:
            while True:
                with cluster_errors():
                    workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
                    capacity = max(1, _AHEAD * sum(worker["nthreads"] for worker in workers))
                    room = max(0, capacity - len(under_way))
                    for number, (function, *arguments) in itertools.islice(numbered, room):
                        key = f"deapcache-{name}-{number}-{uuid.uuid4().hex[:8]}"
                        future = self.client.submit(function, *arguments, key=key, pure=False)
                        under_way.add(future)
                        running.add(future)
                    if not under_way:
                        return
                    ended = next(running)
                    under_way.discard(ended)
                    result = ended.result()
                yield result
        finally:
            with suppress(Exception):  # a scheduler that is gone has nothing left to cancel
                self.client.cancel(list(under_way), force=True)


def _local_cluster(workers: int, device: str) -> Any:
    from distributed import Nanny, Scheduler
    from distributed.deploy.spec import SpecCluster

    if workers < 1:
        raise UsageError(f"workers must be at least 1, found {workers}")
    # no LocalCluster: it gives all workers one environment, and a worker that sees all GPUs takes memory of the first
    shared = {"host": "127.0.0.1", "protocol": "tcp://", "dashboard": False}
    # no memory limit: a nanny would kill a worker whose model is larger than its share, again and again
    options = {**shared, "nthreads": 1, "memory_limit": None, "silence_logs": logging.CRITICAL}
    specification = {
        number: {"cls": Nanny, "options": {**options, "env": worker_environment(number, workers, device)}}
        for number in range(workers)
    }
    scheduler = {"cls": Scheduler, "options": {**shared, "port": 0, "dashboard_address": "127.0.0.1:0"}}
    return SpecCluster(workers=specification, scheduler=scheduler, name="deapcache", silence_logs=logging.CRITICAL)


def worker_environment(number: int, workers: int, device: str) -> dict[str, str]:
    """Environment of one of so many workers on this machine: its GPU, or its part of the cores."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cpu_count() // workers))
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = [name for name in visible.split(",") if name] or [str(gpu) for gpu in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = names[number % gpus]
    return environment


def _follow_parent_plugin() -> Any:
    from distributed import WorkerPlugin

    class FollowParent(WorkerPlugin):
        """Workers of this machine end with the process that the user started, and leave Ctrl-C to it."""

        def setup(self, worker: Any) -> None:
            follow_parent()

    return FollowParent()


@contextmanager
def cluster_errors() -> Iterator[None]:
    """Turn the errors of a cluster in the block into :class:`ClusterError`, which says how to go on."""
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError

    again = "what was published stays; run the same command again to go on"
    try:
        yield
    except DeapcacheError:
        raise
    except KilledWorker as error:
        raise ClusterError(
            f"a task was given up after {error.allowed_failures + 1} workers had died of it: out of memory, as a rule "
            f"(give a smaller --batch-size, or fewer workers a host); {again}"
        ) from None
    except (FutureCancelledError, CancelledError, CommClosedError, TimeoutError) as error:
        raise ClusterError(f"the scheduler was lost ({type(error).__name__}): {again}") from None
    except ImportError as error:
        raise ClusterError(
            f"a worker lacks what it needs ({error}): install deapcache and the same packages on all workers"
        ) from None


@dataclass(frozen=True, kw_only=True)
class WorkerJob:
    """A :class:`FeatureJob` as it is sent: without the model, which each worker builds for itself."""

    name: str
    """No other job has it."""
    version: str
    """Of deapcache; the worker must have the same."""
    features: tuple[Location, ...]
    """One cache for each layer that is kept."""
    source: ImageSource
    """Of the images that the backbone sees."""
    identities: tuple[BackboneIdentity, ...]
    statistics: BatchNormStatistics | None
    """Batch-norm statistics of an untrained backbone: all workers have those of the process that wrote the recipe."""
    settings: ExtractionSettings
    """With the layers of this job alone, and an absolute path of the weights."""


ShardResult = tuple[int, int, int, str, dict[str, Any]]
"""A shard that a worker has published, or found: its number, images, bytes published (0 where it was there: a worker
may have published it just before it died), and for the cache's provenance the worker and job, and facts."""


def _worker_job(job: FeatureJob) -> WorkerJob:
    weights = job.settings.weights
    return WorkerJob(
        name=uuid.uuid4().hex,
        version=version("deapcache"),
        features=tuple(cache.location for cache in job.caches),
        source=job.source,
        identities=job.backbone.identities,
        statistics=job.backbone.statistics() if job.caches[0].recipe["calibration"] else None,
        settings=replace(
            job.settings, selection=job.backbone.selection, weights=None if weights is None else weights.absolute()
        ),
    )


_LOADED: dict[str, tuple[FeatureJob, str, dict[str, Any]]] = {}
"""The last job of this process, its writer and facts: another job's model would not fit beside it."""

_MODEL = threading.Lock()
_SPACE = threading.Semaphore(SHARDS_IN_FLIGHT + 1)
"""Shards in memory: one is forwarded while earlier ones are published."""


def compute_shard(job: WorkerJob, shard: int) -> ShardResult:
    """Forward and publish one shard; while it is published, the worker may begin with the next one.

    Raises what building, reading, forwarding and publishing raise, and :class:`ClusterError` where this worker has
    another version of deapcache.
    """
    sizes: list[int] = []
    with _SPACE, ExitStack() as model:
        model.enter_context(_MODEL)
        ready, writer, facts = _load_job(job)
        rows = ready.caches[0].shard_rows(shard)

        def let_next_begin() -> None:
            from distributed import secede

            model.close()
            secede()

        if any(cache.missing_shards(rows) for cache in ready.caches):
            extract_shards(
                ready, [shard], on_publish=lambda _, size: sizes.append(size), on_all_forwarded=let_next_begin
            )
    return shard, len(rows), sum(sizes), writer, facts


def _same_job(job: WorkerJob) -> WorkerJob:
    return job


def forget_models() -> None:
    """Free what this process keeps from task to task."""
    with _MODEL:
        _forget()


def _forget() -> None:
    _LOADED.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _load_job(job: WorkerJob) -> tuple[FeatureJob, str, dict[str, Any]]:
    """The job with its model and caches in this process's memory, its writer and the facts of its provenance."""
    if job.name not in _LOADED:
        _forget()
        here = version("deapcache")
        if here != job.version:
            raise ClusterError(
                f"a worker has deapcache {here}, this process has {job.version}: install the same version everywhere"
            )
        device = worker_device(job.settings.device)
        ready = FeatureJob(
            caches=[cast(FeatureCache, open_cache(location)) for location in job.features],
            backbone=_build(job).to(device),
            source=job.source,
            settings=job.settings,
        )
        _LOADED[job.name] = ready, new_writer_name(), provenance_facts(device, ready.batch_size)
    return _LOADED[job.name]


def _build(job: WorkerJob) -> Backbone:
    expected, settings = job.identities[0], job.settings
    backbone = build(
        expected.backbone,
        weights=settings.weights,
        weights_key=settings.weights_key,
        image_size=expected.image_size,
        precision=settings.precision,
        selection=settings.selection,
    )
    if backbone.identities != job.identities:
        raise WeightsError(
            f"backbone {backbone.name} has the weights {backbone.identity.weights} on a worker, expected "
            f"{expected.weights}: give all workers the same files, and the same versions of torch and timm"
        )
    if job.statistics is not None:
        backbone.adopt(job.statistics)
    return backbone


def worker_device(name: str) -> torch.device:
    """The device of this worker: of several GPUs that it sees, the one that falls to it among the workers of its host.

    Workers that were started with one GPU each (``CUDA_VISIBLE_DEVICES``) take that one.
    """
    device = choose_device(name)
    gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 1
    if gpus < 2:
        return device
    from distributed import get_worker
    from distributed.utils import sync

    worker = get_worker()
    known = sync(worker.loop, worker.scheduler.identity)["workers"]
    return torch.device("cuda", gpu_of(worker.address, list(known), gpus))


def gpu_of(address: str, addresses: Sequence[str], gpus: int) -> int:
    """The GPU of the worker at ``address``, when the workers of one host take its GPUs in turn."""
    host = address.rpartition(":")[0]
    return sorted(each for each in addresses if each.rpartition(":")[0] == host).index(address) % gpus
