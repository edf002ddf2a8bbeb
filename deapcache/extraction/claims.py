"""Claims divide the missing shards of a cache between the runs that fill it at the same time.

A claim is a small file, ``claims/<shard>.json`` inside the cache. The first run that asks creates it and renews it by a
heartbeat. Only time depends on it: two runs that compute the same shard publish the same bytes, once. So a claim may
get lost, be overwritten or refused, and the worst that follows is work done twice.

No clock is compared with another host's. An observer counts a claim as abandoned when it has seen it unchanged for so
many seconds of its own monotonic clock, or when the process that made it ran on this machine and has ended.

In caches of base images and targets, which one pass over the files fills together, what is claimed is a block of rows.
"""

from __future__ import annotations

import math
import os
import platform
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from deapcache.cache import CLAIMS, Cache, restore_metadata
from deapcache.cache.claims import BEATS, CLAIM_SECONDS, Claim, parse_claim, this_machine
from deapcache.extraction.create import new_writer_name
from deapcache.locations import Location

_LONGEST_PAUSE = 2.0
"""Seconds between two looks at what other runs compute."""

_NAMED = 3
"""Other runs to name while this one waits for them."""


Batches = Iterator[Iterator[int]]
"""Claimed shards, a batch at a time: see :meth:`WorkQueue.batches`."""


def new_claim(writer: str) -> Claim:
    """The claim of a run of this process."""
    return Claim(writer=writer, host=platform.node(), pid=os.getpid(), machine=this_machine())


class Claims:
    """The claims of one run on shards of one cache. Use it as a context; on leaving, it gives back what it still holds.

    Where it cannot write a claim, it makes none from then on, every shard is free, and :attr:`problem` says why.
    ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        location: Location,
        writer: str,
        *,
        seconds: float = CLAIM_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.problem = ""
        self._location = location
        self._mine = new_claim(writer)
        self._seconds = seconds
        self._clock = clock
        self._held: set[int] = set()
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._heart: threading.Thread | None = None

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._heart is not None:
            self._heart.join()
        for shard in tuple(self._held):
            self.release(shard)

    def take(self, shard: int) -> bool:
        """Claim ``shard``; False where another run that is still at work has claimed it."""
        if self.problem:
            return True
        found = self._read(shard)
        if found is not None and not self._is_abandoned(shard, found):
            return False
        if found is not None and found == self._read(shard):
            with suppress(OSError):  # read again just before: another observer may have been quicker
                self._location.delete(_key(shard))
        return self._make(shard)

    def owner(self, shard: int) -> Claim | None:
        """Who claims ``shard``; None where nobody does, or nobody can tell."""
        content = self._read(shard)
        return None if content is None else parse_claim(content)

    def release(self, shard: int) -> None:
        """Give back the claim on ``shard``, where this run has it."""
        with self._lock:
            if shard in self._held:
                self._held.discard(shard)
                self._remove_own(shard)

    def beat(self) -> None:
        """Renew all claims that this run holds; drop those that another run has taken over."""
        with self._lock:
            self._mine = replace(self._mine, beat=self._mine.beat + 1)
            for shard in tuple(self._held):
                if self._is_own(shard):
                    with suppress(OSError):  # a beat that is missed costs nothing; after too many, the claim is void
                        self._location.publish(_key(shard), self._mine.to_bytes(), replace=True)
                else:
                    self._held.discard(shard)

    def _make(self, shard: int) -> bool:
        try:
            # Refused by a claim of its own: a store's answer was lost on the way, and the claim was put once more.
            made = self._location.publish(_key(shard), self._mine.to_bytes()) or self._is_mine(self.owner(shard))
        except OSError as error:
            self.problem = str(error)
            return True
        if made:
            self._hold(shard)
        return made

    def _hold(self, shard: int) -> None:
        with self._lock:
            self._held.add(shard)
            if self._end.is_set():  # a thread may still take shards while an error ends the run
                self._held.discard(shard)
                self._remove_own(shard)
            elif self._heart is None:
                self._heart = threading.Thread(target=self._keep_beating, name="deapcache-claims", daemon=True)
                self._heart.start()

    def _keep_beating(self) -> None:
        while not self._end.wait(self._seconds / BEATS):
            self.beat()

    def _is_abandoned(self, shard: int, content: bytes) -> bool:
        claim = parse_claim(content)
        if claim is not None and claim.is_dead:
            return True
        before = self._seen.get(shard)
        if before is None or before[0] != content:
            self._seen[shard] = content, self._clock()
            return False
        return self._clock() - before[1] >= self._seconds

    def _is_own(self, shard: int) -> bool:
        try:
            claim = parse_claim(self._location.read(_key(shard)))
        except FileNotFoundError:
            return False
        except OSError:
            return True  # a store that does not answer now is no reason to give up a claim
        return self._is_mine(claim)

    def _is_mine(self, claim: Claim | None) -> bool:
        return claim is not None and claim.writer == self._mine.writer

    def _remove_own(self, shard: int) -> None:
        with suppress(OSError):
            if self._is_own(shard):
                self._location.delete(_key(shard))

    def _read(self, shard: int) -> bytes | None:
        with suppress(OSError):
            return self._location.read(_key(shard))
        return None


def _key(shard: int) -> str:
    return f"{CLAIMS}/{shard}.json"


class WorkQueue:
    """The missing shards of one or several caches that this run may compute; it claims them one by one.

    Use it as a context; on leaving, it gives back the claims that it still holds.

    Parameters
    ----------
    location
        The cache that keeps the claims.
    shards
        The shards that this run may compute.
    present
        Gives those of some shards that are there now: of one after each claim, of all every few seconds.
    images
        Gives the number of images of a shard.
    caches
        The caches to fill. At the end the queue restores their small files, which somebody may have removed meanwhile.
    claim_seconds
        A claim of another run that was not renewed for so long is void.
    say
        Gets sentences for the user: for which runs this one waits.
    """

    def __init__(
        self,
        location: Location,
        shards: Collection[int],
        *,
        present: Callable[[Collection[int]], Collection[int]],
        images: Callable[[int], int],
        caches: Sequence[Cache] = (),
        claim_seconds: float = CLAIM_SECONDS,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        writer = new_writer_name()
        self.total = 0
        """Images that this run has computed or that are missing, as far as it knows."""
        self._claims = Claims(location, writer, seconds=claim_seconds)
        self._shards = frozenset(shards)
        self._present = present
        self._images = images
        self._caches = caches
        self._say = say
        self._last_message = ""
        self._random = random.Random(writer)
        self._pause = min(_LONGEST_PAUSE, claim_seconds / 10)
        self._queue: deque[int] = deque()
        self._given: set[int] = set()
        self._looked = -math.inf
        self._missing: set[int] = set()

    def __enter__(self) -> WorkQueue:
        self._claims.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        self._claims.__exit__(*problem)

    def batches(self) -> Batches:
        """Batches of claimed shards, until none is missing; a batch ends when other runs have claimed all the rest.

        Publish all of a batch before asking for the next one: other runs may wait for it.
        """
        self._refresh()
        while self._missing:
            self._queue = deque(sorted(self._missing))
            first = self._claim_next()
            if first is None:
                self._wait()
            else:
                yield self._batch(first)
            self._refresh()
            if not self._missing:
                self._restore_caches()

    def finish(self, shard: int) -> None:
        """Give back the claim on ``shard``, which is published."""
        self._claims.release(shard)

    def _batch(self, first: int) -> Iterator[int]:
        # Claim the next shard while the caller computes this one: a store may take its time to answer.
        with ThreadPoolExecutor(1) as pool:
            shard: int | None = first
            while shard is not None:
                following = pool.submit(self._claim_next)
                yield shard
                shard = following.result()

    def _claim_next(self) -> int | None:
        """Claim one more missing shard; None where none is free."""
        while self._queue:
            shard = self._queue.popleft()
            if not self._claims.take(shard):
                self._refresh(at_most_every=self._pause)
                if self._queue:  # go on elsewhere: runs that follow each other would meet again and again
                    self._queue.rotate(self._random.randrange(len(self._queue)))
                continue
            if self._claims.problem:
                self._tell(f"work is not shared with other runs: {self._claims.problem}")
            self._refresh(at_most_every=_LONGEST_PAUSE)
            if shard not in self._present([shard]):
                self._given.add(shard)
                return shard
            self._missing.discard(shard)  # another run had published it before this one claimed it
            self._claims.release(shard)
        return None

    def _refresh(self, *, at_most_every: float = 0.0) -> None:
        """Look which shards are missing: to list all of them for each would take the square of their number."""
        if time.monotonic() - self._looked < at_most_every:
            return
        self._missing = set(self._shards.difference(self._present(self._shards)))
        self._looked = time.monotonic()
        self._queue = deque(shard for shard in self._queue if shard in self._missing)
        self.total = sum(map(self._images, self._given | self._missing))

    def _restore_caches(self) -> None:
        for cache in self._caches:
            restore_metadata(cache)
        self._refresh()

    def _wait(self) -> None:
        owners = [str(owner) for shard in sorted(self._missing) if (owner := self._claims.owner(shard))]
        others = list(dict.fromkeys(owners))
        named = ", ".join(others[:_NAMED]) + (" and others" if len(others) > _NAMED else "")
        if named:
            self._tell(f"waits for {len(self._missing)} of its shards, which are under way elsewhere: {named}")
        time.sleep(self._pause)

    def _tell(self, text: str) -> None:
        if text != self._last_message:
            self._say(text)
        self._last_message = text
