"""Features computed by the workers of a Dask cluster: one that is there, or one of this machine's own.

This process divides the shards and claims them; workers forward and publish. A worker that dies is replaced and its
shards are done again: they are published whole or not at all.
"""

from __future__ import annotations

import itertools
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch

from deapcache.backbones import Backbone
from deapcache.cache import FeatureCache
from deapcache.errors import ClusterError, UsageError
from deapcache.extraction.circumstances import Record
from deapcache.extraction.lost import explained
from deapcache.extraction.prepare import PreparedSplit
from deapcache.extraction.progress import Watch
from deapcache.extraction.settings import ExtractionSettings
from deapcache.extraction.tasks import Done, Job, compute_shard, keep
from deapcache.machine import cpu_count
from deapcache.processes import GUARD, follow_parent, refuse_unguarded, spawning

INSTALL = "pip install 'deapcache[cluster]'"

_AHEAD = 2
"""Tasks per worker thread that are handed out before they can begin, so that no worker waits for this process."""

_CONNECT_SECONDS = 30

_Caches = Sequence[FeatureCache]


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
    cores. ``say`` is told, for people, when the cluster has no worker yet. Raises :class:`UsageError` where the package
    ``distributed`` is missing and :class:`ClusterError` where the scheduler cannot be reached.
    """
    refuse_unguarded()
    _require_distributed()
    from distributed import Client
    from distributed.utils import silence_logging_cmgr

    with ExitStack() as opened:
        # Dask logs a lost scheduler with a traceback, which is told in one line here.
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
            client.register_plugin(_following_plugin())
        elif not client.scheduler_info()["workers"]:
            say(f"waits for the first worker of {scheduler}")
            client.wait_for_workers(1)
        yield Cluster(client, device)


class Cluster:
    """The workers of a cluster as those who compute; made by :func:`open_cluster`."""

    def __init__(self, client: Any, device: str) -> None:
        self.client = client
        self.device = device
        """As the user named it; each worker finds its own."""

    def compute(
        self,
        caches: _Caches,
        rounds: Iterator[Iterator[int]],
        backbone: Backbone,
        prepared: PreparedSplit,
        *,
        settings: ExtractionSettings,
        watch: Watch,
    ) -> None:
        """Hand out the shards one by one, and record which worker did which."""
        job = _job(caches, backbone, prepared, settings)
        with ExitStack() as open_records:
            records: dict[str, list[Record]] = {}
            for shards in rounds:
                for done in self.results(compute_shard, job, shards):
                    _note(done, caches, records, open_records)
                    watch.published(done.shard, done.bytes)
                    watch.forwarded(done.images)

    def results(self, function: Callable[[Job, int], Done], job: Job, shards: Iterable[int]) -> Iterator[Done]:
        """What ``function`` returns for each of ``shards``, as they end; a few are asked for ahead.

        Raises what it raises, and :class:`ClusterError` where workers die again and again or the scheduler is lost.
        """
        with explained():
            kept = self.client.submit(keep, job, key=f"deapcache-job-{job.name}")
        calls = ((function, kept, shard) for shard in shards)
        yield from self.run(calls, name=job.name)
        kept.release()

    def run(self, calls: Iterable[tuple[Any, ...]], *, name: str) -> Iterator[Any]:
        """The results of ``calls``, each a function and its arguments, as they end; tasks are called after ``name``.

        On an error or Ctrl-C what has not ended is cancelled.
        """
        from distributed import as_completed

        waiting = ((f"deapcache-{name}-{number}", call) for number, call in enumerate(calls))
        running = as_completed([], loop=self.client.loop, raise_errors=False)
        under_way: set[Any] = set()
        try:
            while True:
                with explained():
                    self._hand_out(waiting, under_way, running)
                    if not under_way:
                        return
                    ended = next(running)
                    under_way.discard(ended)
                    result = ended.result()
                yield result
        finally:
            with suppress(Exception):  # a scheduler that is gone has nothing left to cancel
                self.client.cancel(list(under_way), force=True)

    def _hand_out(self, waiting: Iterator[tuple[str, tuple[Any, ...]]], under_way: set[Any], running: Any) -> None:
        """Submit the next calls, as many as there is room for."""
        for name, (function, *arguments) in itertools.islice(waiting, max(0, self._window() - len(under_way))):
            future = self.client.submit(function, *arguments, key=f"{name}-{uuid.uuid4().hex[:8]}", pure=False)
            under_way.add(future)
            running.add(future)

    def _window(self) -> int:
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return max(1, _AHEAD * sum(worker["nthreads"] for worker in workers))


def _note(done: Done, caches: _Caches, records: dict[str, list[Record]], open_records: ExitStack) -> None:
    if not done.bytes:
        return
    if done.writer not in records:
        records[done.writer] = [open_records.enter_context(Record(c, done.writer, done.facts)) for c in caches]
    for record in records[done.writer]:
        record.add(done.shard)


def _job(caches: _Caches, backbone: Backbone, prepared: PreparedSplit, settings: ExtractionSettings) -> Job:
    return Job(
        name=uuid.uuid4().hex,
        version=version("deapcache"),
        features=tuple(cache.location for cache in caches),
        images=None if prepared.images is None else prepared.images.location,
        dataset=prepared.dataset,
        split=prepared.split,
        fit=prepared.fit,
        view=prepared.view,
        images_digest=prepared.images_digest,
        identities=backbone.identities,
        selection=backbone.selection,
        statistics=backbone.statistics() if caches[0].recipe["calibration"] else None,
        weights=None if settings.weights is None else settings.weights.absolute(),
        precision=settings.precision,
        device=settings.device,
        batch_size=settings.batch_size,
    )


def _local_cluster(workers: int, device: str) -> Any:
    from distributed import Nanny, Scheduler
    from distributed.deploy.spec import SpecCluster

    if workers < 1:
        raise UsageError(f"workers must be at least 1, found {workers}")
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
    """Environment of one of so many workers on this machine: its GPU, or its share of the cores."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cpu_count() // workers))
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = [name for name in visible.split(",") if name] or [str(gpu) for gpu in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = names[number % gpus]
    return environment


def _following_plugin() -> Any:
    from distributed import WorkerPlugin

    class FollowParent(WorkerPlugin):
        """Workers of this machine end with the process that the user started, and leave Ctrl-C to it."""

        def setup(self, worker: Any) -> None:
            follow_parent()

    return FollowParent()


def _require_distributed() -> None:
    if find_spec("distributed") is None:
        raise UsageError(f"workers and schedulers need the package distributed, which is not installed: {INSTALL}")
