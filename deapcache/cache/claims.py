"""Claims at rest: which runs are at work on a cache, and whether they still are.

A claim is a small file, ``claims/<unit>.json`` inside the cache, renewed by a heartbeat; how runs make and give them
back is told in ``deapcache.extraction.claims``.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from deapcache.cache.names import CLAIMS
from deapcache.errors import NotAFileError
from deapcache.locations import LocalLocation, Location, file_age

CLAIM_SECONDS = 120.0
"""A claim that nobody renewed for so long is void; network file systems may show a renewal up to a minute late."""

BEATS = 6
"""Renewals within that time."""

_MOST_PROCESSES = 2**31


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who is at work on a unit."""

    writer: str
    """Name of the run; no other run has it."""
    host: str
    pid: int
    machine: str
    """What tells process numbers of one machine or container from those of another; empty where that is unknown."""
    beat: int = 0
    """Raised by every renewal."""

    def to_bytes(self) -> bytes:
        """The content of the claim's file."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @property
    def is_dead(self) -> bool:
        """Whether its process ran on this machine and has ended."""
        return bool(self.machine) and self.machine == this_machine() and not _is_alive(self.pid)

    def __str__(self) -> str:
        return f"{self.host} (process {self.pid})"


def parse_claim(content: bytes) -> Claim | None:
    """The claim that a file holds; None for one of another form, which is void in time like any other."""
    try:
        claim = Claim(**json.loads(content))
        is_sound = isinstance(claim.writer, str) and isinstance(claim.host, str) and 0 < claim.pid < _MOST_PROCESSES
        return claim if is_sound else None
    except (ValueError, TypeError, RecursionError):
        return None


def live_runs(location: Location) -> list[str]:
    """The runs that are at work on the cache at ``location``, as host and process, for people; [] where none is.

    On a file system a claim's age is told by the file system's own clock. A store tells none: where it holds claims,
    they are watched for half a minute, for one that is alive is renewed within that time.
    """
    keys = [key for key in location.keys(CLAIMS) if re.fullmatch(rf"{CLAIMS}/\d+\.json", key)]
    found = {key: content for key in keys if (content := _read(location, key)) is not None}
    alive = {key: content for key, content in found.items() if not ((one := parse_claim(content)) and one.is_dead)}
    if isinstance(location, LocalLocation):
        alive = {key: alive[key] for key in alive if _age(location.path / key) < CLAIM_SECONDS}
    elif alive:
        alive = dict(_wait_for_renewal(location, alive))
    return list(dict.fromkeys(str(parse_claim(content) or "an unknown run") for content in alive.values()))


def _wait_for_renewal(location: Location, before: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Those claims that are renewed, or given back, while they are watched."""
    end = time.monotonic() + 1.5 * CLAIM_SECONDS / BEATS
    while time.monotonic() < end:
        if changed := {key: content for key, content in before.items() if _read(location, key) != content}:
            yield from changed.items()
            return
        time.sleep(1.0)


def _read(location: Location, key: str) -> bytes | None:
    with suppress(FileNotFoundError, NotAFileError):
        return location.read(key)
    return None


def _age(path: Path) -> float:
    try:
        return file_age(path)
    except FileNotFoundError:  # given back since it was listed: its run is at work
        return 0.0


def this_machine() -> str:
    """The running system and its process numbers; two containers of one host name have different ones."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True
