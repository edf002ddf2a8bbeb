"""How several runs share the work on one cache: which part is whose, and what to do next.

A unit is what one run does whole: a shard of features, or a window of base images with its targets.
"""

from __future__ import annotations

import random
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from deapcache.cache import Cache, restore_metadata
from deapcache.cache.claims import CLAIM_SECONDS
from deapcache.errors import UsageError
from deapcache.extraction.circumstances import new_writer_name
from deapcache.extraction.claims import Claims
from deapcache.locations import Location

_LONGEST_PAUSE = 2.0
"""Seconds between two looks at what others are at work on."""

_NAMED = 3
"""Other runs that are named while this one waits for them."""


@dataclass(frozen=True, kw_only=True)
class Portion:
    """The part of the units that falls to one of ``count`` runs, whoever else is running."""

    number: int = 1
    """From 1 to ``count``."""
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"shard {self}: expected a number from 1 to {max(self.count, 1)} before the slash")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, units: Collection[int]) -> list[int]:
        """Those of ``units`` that belong to it, in order."""
        return [unit for unit in sorted(units) if unit % self.count == self.number - 1]


def parse_portion(text: str) -> Portion:
    """``2/8``, the second of eight; raises :class:`UsageError` for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise UsageError(f"shard {text!r}: expected NUMBER/COUNT with numbers from 1, such as 2/8")
    return Portion(number=int(found[1]), count=int(found[2]))


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How a run shares work with others."""

    portion: Portion = Portion()
    """By default all that is missing."""
    claim_seconds: float = CLAIM_SECONDS
    """What another run claims is taken over when it has not been renewed for so long."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Units of one cache."""

    location: Location
    """Of the cache, which keeps the claims."""
    units: Collection[int]
    """What this run may do."""
    present: Callable[[], Collection[int]]
    """The units that are there now; asked again and again."""
    images: Callable[[int], int]
    """Images of a unit."""
    caches: Sequence[Cache] = ()
    """Those that are filled: at the end they are made sure of, since somebody may have removed them meanwhile."""


class Share:
    """The units that fall to this run, claimed one by one as they come; made by :func:`share`."""

    def __init__(self, work: Work, claims: Claims, writer: str, say: Callable[[str], None], pause: float) -> None:
        self.total = 0
        """Images that this run has done or that are missing, as far as it knows; less when others do some of them."""
        self._work = work
        self._claims = claims
        self._random = random.Random(writer)
        self._say = say
        self._said = ""
        self._pause = pause
        self._queue: deque[int] = deque()
        self._given: set[int] = set()
        self._open: set[int] = set()

    def rounds(self) -> Iterator[Iterator[int]]:
        """Units to do, until none is missing; each round ends where all that is left is under way elsewhere.

        A round must be worked off before the next one is asked for: others may be waiting for it.
        """
        self._look()
        while self._open:
            self._queue = deque(sorted(self._open))
            first = self._next()
            if first is None:
                self._wait()
            else:
                yield self._round(first)
            self._look()
            if not self._open:
                self._make_sure()

    def finish(self, unit: int) -> None:
        """Say that ``unit`` has been published."""
        self._claims.release(unit)

    def _round(self, first: int) -> Iterator[int]:
        # The next unit is claimed while this one is worked on: a store may take its time to answer.
        with ThreadPoolExecutor(1) as pool:
            unit: int | None = first
            while unit is not None:
                following = pool.submit(self._next)
                yield unit
                unit = following.result()

    def _next(self) -> int | None:
        """Claim one more unit; None where no missing one is free."""
        while self._queue:
            unit = self._queue.popleft()
            if self._claims.take(unit):
                if self._is_missing(unit):
                    return unit
                self._claims.release(unit)
            else:
                self._look()
                self._turn()
        return None

    def _is_missing(self, unit: int) -> bool:
        """Whether a unit that was just claimed had not been finished before."""
        if self._claims.problem:
            self._tell(f"work is not shared with other runs: {self._claims.problem}")
        self._given.add(unit)
        self._look()
        if unit not in self._open:
            self._given.discard(unit)
        return unit in self._open

    def _look(self) -> None:
        """List what is missing, and forget what is not."""
        self._open = set(self._work.units).difference(self._work.present())
        self._queue = deque(unit for unit in self._queue if unit in self._open)
        self.total = sum(map(self._work.images, self._given | self._open))

    def _make_sure(self) -> None:
        """Restore what says that the shards are a cache, then look once more whether they all are there."""
        for cache in self._work.caches:
            restore_metadata(cache)
        self._look()

    def _turn(self) -> None:
        """Go on elsewhere: runs that follow each other would get in each other's way again and again."""
        if self._queue:
            self._queue.rotate(self._random.randrange(len(self._queue)))

    def _wait(self) -> None:
        owners = [str(owner) for unit in sorted(self._open) if (owner := self._claims.owner(unit))]
        others = list(dict.fromkeys(owners))
        named = ", ".join(others[:_NAMED]) + (" and others" if len(others) > _NAMED else "")
        if named:
            self._tell(f"waits for {len(self._open)} of its shards, which are under way elsewhere: {named}")
        time.sleep(self._pause)

    def _tell(self, text: str) -> None:
        if text != self._said:
            self._say(text)
        self._said = text


@contextmanager
def share(work: Work, sharing: Sharing, say: Callable[[str], None]) -> Iterator[Share]:
    """The units of ``work`` that fall to this run; claims that it still holds are given back at the end.

    ``say`` is told, for people, for whom the run waits.
    """
    writer = new_writer_name()
    with Claims(work.location, writer, seconds=sharing.claim_seconds) as claims:
        yield Share(work, claims, writer, say, min(_LONGEST_PAUSE, sharing.claim_seconds / 10))
