"""Claims: which parts of a cache other extractors are at work on, so that several share the work.

A claim is a small file, ``claims/<unit>.json`` inside the cache, made by the first who asks for it and renewed by a
heartbeat. Nothing but time depends on it: what two extractors make of one unit is published once, whoever is first. So
a claim may be lost, overwritten or refused, and the worst that follows is work done twice.

No clock is compared with another host's. An observer takes a claim for abandoned when it has seen it unchanged for so
many seconds of its own monotonic clock, or when the process that made it ran on this machine and is gone.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from deapcache.cache import CLAIMS
from deapcache.cache.claims import BEATS, CLAIM_SECONDS, Claim, parse_claim, this_machine
from deapcache.locations import Location


def new_claim(writer: str) -> Claim:
    """The claim of a run of this process."""
    return Claim(writer=writer, host=platform.node(), pid=os.getpid(), machine=this_machine())


class Claims:
    """The claims of one run on units of one cache; used as a context, whose end gives back what is still held.

    Where a claim cannot be written, none is made from then on, every unit is free, and :attr:`problem` says why.
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
        for unit in tuple(self._held):
            self.release(unit)

    def take(self, unit: int) -> bool:
        """Claim ``unit`` where nobody does, or nobody who is still at work; False where another run has it."""
        if self.problem:
            return True
        found = self._read(unit)
        if found is not None and not self._is_abandoned(unit, found):
            return False
        if found is not None and found == self._read(unit):
            with suppress(OSError):  # read again just before: another observer may have been quicker
                self._location.delete(_key(unit))
        return self._make(unit)

    def owner(self, unit: int) -> Claim | None:
        """Who claims ``unit``; None where nobody does, or nobody can tell."""
        content = self._read(unit)
        return None if content is None else parse_claim(content)

    def release(self, unit: int) -> None:
        """Give back the claim on ``unit``, where this run has it."""
        with self._lock:
            if unit in self._held:
                self._held.discard(unit)
                self._remove_own(unit)

    def beat(self) -> None:
        """Renew all claims that this run holds; one that another run has taken over meanwhile is let go."""
        with self._lock:
            self._mine = replace(self._mine, beat=self._mine.beat + 1)
            for unit in tuple(self._held):
                if self._is_own(unit):
                    with suppress(OSError):  # a beat that is missed costs nothing; after too many, the claim is void
                        self._location.publish(_key(unit), self._mine.to_bytes(), replace=True)
                else:
                    self._held.discard(unit)

    def _make(self, unit: int) -> bool:
        try:
            # Refused by a claim of its own: a store's answer was lost on the way, and the claim was put once more.
            made = self._location.publish(_key(unit), self._mine.to_bytes()) or self._is_mine(self.owner(unit))
        except OSError as error:
            self.problem = str(error)
            return True
        if made:
            self._hold(unit)
        return made

    def _hold(self, unit: int) -> None:
        with self._lock:
            self._held.add(unit)
            if self._end.is_set():  # a thread may still be taking units while an error ends the run
                self._held.discard(unit)
                self._remove_own(unit)
            elif self._heart is None:
                self._heart = threading.Thread(target=self._keep_beating, name="deapcache-claims", daemon=True)
                self._heart.start()

    def _keep_beating(self) -> None:
        while not self._end.wait(self._seconds / BEATS):
            self.beat()

    def _is_abandoned(self, unit: int, content: bytes) -> bool:
        claim = parse_claim(content)
        if claim is not None and claim.is_dead:
            return True
        before = self._seen.get(unit)
        if before is None or before[0] != content:
            self._seen[unit] = content, self._clock()
            return False
        return self._clock() - before[1] >= self._seconds

    def _is_own(self, unit: int) -> bool:
        try:
            claim = parse_claim(self._location.read(_key(unit)))
        except FileNotFoundError:
            return False
        except OSError:
            return True  # a store that does not answer now is no reason to give up a claim
        return self._is_mine(claim)

    def _is_mine(self, claim: Claim | None) -> bool:
        return claim is not None and claim.writer == self._mine.writer

    def _remove_own(self, unit: int) -> None:
        with suppress(OSError):
            if self._is_own(unit):
                self._location.delete(_key(unit))

    def _read(self, unit: int) -> bytes | None:
        with suppress(OSError):
            return self._location.read(_key(unit))
        return None


def _key(unit: int) -> str:
    return f"{CLAIMS}/{unit}.json"
