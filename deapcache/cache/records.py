"""What a home keeps about its caches: who uses them, who wants them kept, and what was removed.

All are small JSON files beside the caches, each written by one person and never into a cache: ``uses/USER.json``,
``pins/DIGEST-USER.json``, ``removals/TIME-….json``. Times are those of the home's file system, where it tells them: the
clocks of hosts may be hours apart.
"""

from __future__ import annotations

import contextlib
import os
import platform
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from deapcache.cache.names import escape_name, home_of
from deapcache.errors import DeapcacheError, LocationError, NotAFileError
from deapcache.locations import Location, WebLocation
from deapcache.machine import user_name
from deapcache.recipe import SHORT
from deapcache.untrusted import first_problem, parse_json, require_printable

USES, PINS, REMOVALS = "uses", "pins", "removals"
"""Folders of a home."""

RENEWED_AFTER = timedelta(hours=1)
"""A use is noted again after so long: reading costs no write a batch."""
_MOST_BYTES = 16_000_000
_ATTEMPTS = 5
"""To add to a file that other processes of the same user change at the same moment."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """That somebody has read a cache."""

    path: str
    """Of the cache, in the home that holds it."""
    digest: str
    who: str
    host: str
    when: datetime


@dataclass(frozen=True, kw_only=True)
class Pin:
    """That somebody wants a cache to be kept."""

    path: str
    digest: str
    who: str
    why: str
    when: datetime
    until: datetime | None = None
    """None: for good."""

    def __str__(self) -> str:
        end = f" until {self.until:%Y-%m-%d}" if self.until else ""
        return f"pinned by {self.who}{end}: {self.why}"


@dataclass(frozen=True, kw_only=True)
class RemovalRecord:
    """That somebody has removed a cache."""

    path: str
    digest: str
    """Empty where the cache could not tell it any more."""
    files: int
    bytes: int
    who: str
    host: str
    when: datetime
    why: str


# --- uses -------------------------------------------------------------------------------------------------------------

_NOTED: set[tuple[int, str]] = set()
"""Caches, each with the process that has noted its use."""


def record_use(cache: Location, digest: str) -> None:
    """Note in the home of ``cache`` that this user reads it, else in the home that it is read beside.

    At most once an hour. Where neither may be written nothing is noted, and nothing is raised: reading needs no
    permission to write.
    """
    if (mark := (os.getpid(), cache.url)) in _NOTED:
        return
    _NOTED.add(mark)
    home = home_of(cache)
    for place in (home, cache.options.own):
        if home is None or place is None or isinstance(place, WebLocation):
            continue
        with contextlib.suppress(DeapcacheError, OSError):
            add_use(place, cache.url.removeprefix(f"{home.url}/"), digest, user_name())
            return


def add_use(place: Location, path: str, digest: str, who: str) -> None:
    """Note in ``place`` that ``who`` reads the cache at ``path``, unless that was noted within the hour.

    Raises what reading and publishing raise.
    """
    key = f"{USES}/{escape_name(who)}.json"
    for _ in range(_ATTEMPTS):
        etag = place.etag_or_none(key)
        known = {use.digest: use for use in _read(place, key, list[Use], default=[])}
        when = place.clock()
        if digest in known and when - known[digest].when < RENEWED_AFTER:
            return
        known[digest] = Use(path=path, digest=digest, who=who, host=platform.node(), when=when)
        place.publish_unless_changed(key, _to_bytes(list[Use], list(known.values())), etag)


def read_uses(home: Location) -> tuple[list[Use], list[str]]:
    """The uses that readers have noted in ``home``, and the files of theirs that cannot be understood.

    Raises :class:`LocationError` where the home or a file of it may not be looked at.
    """
    uses, unreadable = [], []
    for key in _keys(home, USES):
        try:
            uses += _read(home, key, list[Use], default=[])
        except _DamagedError:
            unreadable.append(f"{home}/{key}")
    return uses, unreadable


# --- pins -------------------------------------------------------------------------------------------------------------


def pin_cache(home: Location, path: str, digest: str, *, why: str, until: datetime | None = None) -> Pin:
    """Keep a cache from ``prune`` and ``rm``; again by the same user, it replaces what that one has said."""
    pin = Pin(path=path, digest=digest, who=user_name(), why=why, when=home.clock(), until=until)
    home.publish(_pin_key(digest, pin.who), _to_bytes(Pin, pin), replace=True)
    return pin


def unpin_cache(home: Location, digest: str, *, who: str | None = None) -> tuple[list[Pin], list[Pin]]:
    """Take away the pins on a cache, those of ``who`` alone where given: these, and those that still hold."""
    pins = [pin for pin in read_pins(home, expired=True) if pin.digest == digest]
    gone = [pin for pin in pins if who in (None, pin.who)]
    for pin in gone:
        home.delete(_pin_key(pin.digest, pin.who))
    return gone, _unexpired(home, [pin for pin in pins if pin not in gone])


def read_pins(home: Location, *, expired: bool = False) -> list[Pin]:
    """The pins of a home that hold now, or all; raises :class:`LocationError` for one that cannot be read."""
    pins = [pin for key in _keys(home, PINS) if (pin := _read(home, key, Pin))]
    return pins if expired else _unexpired(home, pins)


def _unexpired(home: Location, pins: Sequence[Pin]) -> list[Pin]:
    now = home.clock() if pins else datetime.now(UTC)
    return [pin for pin in pins if pin.until is None or pin.until > now]


def _pin_key(digest: str, who: str) -> str:
    return f"{PINS}/{digest[:SHORT]}-{escape_name(who)}.json"


# --- removals ---------------------------------------------------------------------------------------------------------


def record_removal(home: Location, path: str, digest: str, *, files: int, size: int, why: str) -> RemovalRecord:
    """Write down that this user removes a cache; raises what :meth:`Location.publish` raises."""
    made = {"who": user_name(), "host": platform.node(), "why": why}
    record = RemovalRecord(path=path, digest=digest, files=files, bytes=size, when=home.clock(), **made)
    key = f"{REMOVALS}/{record.when:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}.json"
    home.publish(key, _to_bytes(RemovalRecord, record))
    return record


def read_removals(home: Location) -> list[RemovalRecord]:
    """What was removed from a home, oldest first; raises :class:`LocationError` for a record that cannot be read."""
    found = [_read(home, key, RemovalRecord) for key in _keys(home, REMOVALS)]
    return sorted((record for record in found if record), key=lambda record: record.when)


# --- files ------------------------------------------------------------------------------------------------------------


class _DamagedError(LocationError):
    """A record is not what deapcache writes."""


def _keys(home: Location, folder: str) -> list[str]:
    if home.exists(folder):
        raise LocationError(f"{home}/{folder} is a file, where a folder of records belongs: move it away")
    return [key for key in home.keys(folder) if key.endswith(".json")]


def _to_bytes(kind: Any, value: Any) -> bytes:
    from pydantic import TypeAdapter  # here: a reader that notes nothing need not wait for it

    return bytes(TypeAdapter(kind).dump_json(value, indent=1))


def _read(home: Location, key: str, kind: Any, default: Any = None) -> Any:
    """What a record says, ``default`` where it is not there; raises :class:`LocationError` naming a damaged one."""
    from pydantic import TypeAdapter, ValidationError

    try:
        data = home.read(key, most=_MOST_BYTES)
        require_printable(parse_json(data))
        return TypeAdapter(kind).validate_json(data, strict=True)
    except FileNotFoundError:
        return default
    except (NotAFileError, ValueError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise _DamagedError(
            f"{home}/{key} is not what deapcache writes: {reason}; ask its owner, or delete it"
        ) from None
