"""How often folders of a home are listed and files of it opened, whatever way, by whatever thread of this process."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from deapcache.locations import LocalLocation


@dataclass
class Counts:
    """Paths relative to the home, each with how often."""

    opened: Counter[str] = field(default_factory=Counter)
    listed: Counter[str] = field(default_factory=Counter)

    @property
    def listed_of_home(self) -> dict[str, int]:
        """Folders that are not inside a cache: those that are listed to know which caches there are."""
        return {folder: often for folder, often in self.listed.items() if ".zarr" not in folder}

    @property
    def listed_in_caches(self) -> dict[str, int]:
        """Folders of caches: those that are listed to know which shards there are, and who wrote them."""
        return {folder: often for folder, often in self.listed.items() if ".zarr" in folder}


_watched: list[tuple[str, list[tuple[str, str]]]] = []
"""A home, and what has happened below it: (event, key)."""
_opening: dict[int, str] = {}
"""Thread → what it opens."""


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if (
        _watched
        and event in ("open", "os.scandir", "os.listdir")
        and isinstance(arguments[0], str | bytes | os.PathLike)
    ):
        folder, events = _watched[-1]
        path = PurePosixPath(os.fsdecode(arguments[0]))
        if path.is_relative_to(folder):
            key = str(path.relative_to(folder))
            # open() with an opener is told of twice: by itself, with a mode, and by the opener, without
            thread, mode = threading.get_ident(), arguments[1] if event == "open" else None
            if event != "open" or mode is not None or _opening.pop(thread, None) != key:
                events.append((event, key))  # in one step, whatever thread it is
            if mode is not None:
                _opening[thread] = key


sys.addaudithook(_audit)


@contextmanager
def counted(home: LocalLocation) -> Iterator[Counts]:
    """What is opened and listed below ``home`` in the block; known at its end."""
    counts, events = Counts(), list[tuple[str, str]]()
    _watched.append((str(home.path), events))
    try:
        yield counts
    finally:
        _watched.pop()
        for event, key in events:
            (counts.opened if event == "open" else counts.listed)[key] += 1
