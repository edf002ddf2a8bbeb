"""What is in a bundle: a manifest, the files of each run, and speeds, under the names that they have in a home."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deapcache.errors import BundleError
from deapcache.results.record import picture_key, readout_key, result_key, statistics_key

SCHEMA = 1
KIND = "deapcache results"
MANIFEST = "manifest.json"

MOST_RUNS = 1000
MOST_SPEEDS = 1000
MOST_BYTES = 2_000_000_000
"""Of all files of a bundle together, unpacked."""

RESULT, STATISTICS, READOUT, PICTURE = "result", "statistics", "readout", "picture"
REQUIRED = (RESULT, STATISTICS, READOUT)

LIMITS: Mapping[str, int] = {
    RESULT: 4_000_000,
    STATISTICS: 256_000_000,
    READOUT: 64_000_000,
    PICTURE: 4_000_000,
}
"""Bytes that a file may have, by what it is. Statistics of boundaries on COCO's 5,000 validation images take 42 MB."""

SPEED_LIMIT = 64_000
"""Bytes of a speed."""

MANIFEST_LIMIT = 4_000_000

_SPEED = re.compile(r"speed/[A-Za-z0-9._@+-]{1,230}\.json")
_RUN = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9._@-]{0,249}")


def keys_of(run: str) -> dict[str, str]:
    """What a file of a run is → its key in a home, and its name in a bundle."""
    return {
        RESULT: result_key(run),
        STATISTICS: statistics_key(run),
        READOUT: readout_key(run),
        PICTURE: picture_key(run),
    }


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What the manifest says of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says that it holds."""

    made: str
    """UTC, ISO 8601."""
    deapcache: str
    """Version that packed it."""
    runs: tuple[str, ...]
    files: Mapping[str, FileFacts]

    @property
    def speeds(self) -> tuple[str, ...]:
        """Names of the files that are speeds."""
        return tuple(name for name in self.files if _SPEED.fullmatch(name))

    def to_json(self) -> dict[str, Any]:
        """As the bundle holds it."""
        files = {name: {"bytes": one.bytes, "sha256": one.sha256} for name, one in self.files.items()}
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "made": self.made,
            "deapcache": self.deapcache,
            "runs": list(self.runs),
            "files": files,
        }

    @classmethod
    def from_json(cls, document: Any) -> Manifest:
        """The manifest that :meth:`to_json` gave; raises :class:`BundleError`, and ``KeyError`` and the like."""
        if document["kind"] != KIND or document["schema"] != SCHEMA:
            raise BundleError(
                f"{MANIFEST} says {document['kind']!r} of schema {document['schema']!r}, this deapcache reads "
                f"{KIND!r} of schema {SCHEMA}"
            )
        files = {
            str(name): FileFacts(bytes=int(facts["bytes"]), sha256=str(facts["sha256"]))
            for name, facts in document["files"].items()
        }
        manifest = cls(
            made=str(document["made"]),
            deapcache=str(document["deapcache"]),
            runs=tuple(map(str, document["runs"])),
            files=files,
        )
        manifest._require_whole()
        return manifest

    def _require_whole(self) -> None:
        """The files are those of the runs, all that a run must have, and speeds; nothing beside."""
        if not 0 < len(self.runs) <= MOST_RUNS or len(set(self.runs)) != len(self.runs):
            raise BundleError(f"{MANIFEST} names {len(self.runs)} runs: expected 1 to {MOST_RUNS}, each once")
        if odd := [run for run in self.runs if not _RUN.fullmatch(run)]:
            raise BundleError(f"{odd[0]!r} is no name of a run")
        required = {keys_of(run)[what] for run in self.runs for what in REQUIRED}
        if missing := sorted(required - set(self.files)):
            raise BundleError(f"{MANIFEST} does not list {missing[0]}")
        self._require_bounded()

    def _require_bounded(self) -> None:
        """Nothing but these files is there, and none of them is larger than is taken."""
        allowed = {key: limit for run in self.runs for key, limit in _bounded(run)}
        allowed |= dict.fromkeys(self.speeds, SPEED_LIMIT)
        if len(self.speeds) > MOST_SPEEDS:
            raise BundleError(f"{MANIFEST} lists {len(self.speeds)} speeds: at most {MOST_SPEEDS} are taken")
        if strange := sorted(set(self.files) - set(allowed)):
            raise BundleError(f"{MANIFEST} lists {strange[0]!r}, which is no file of its runs and no speed")
        for name, facts in self.files.items():
            if not 0 < facts.bytes <= allowed[name]:
                raise BundleError(f"{name} has {facts.bytes:,} bytes, at most {allowed[name]:,} are taken")
        if (total := sum(facts.bytes for facts in self.files.values())) > MOST_BYTES:
            raise BundleError(f"its files have {total:,} bytes together, at most {MOST_BYTES:,} are taken")


def _bounded(run: str) -> list[tuple[str, int]]:
    return [(key, LIMITS[what]) for what, key in keys_of(run).items()]
