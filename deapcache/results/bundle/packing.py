"""Making a bundle."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from deapcache.errors import BundleError, UnknownNameError
from deapcache.locations import Location
from deapcache.machine import now
from deapcache.results.bundle.checking import check_run
from deapcache.results.bundle.contents import MANIFEST, PICTURE, REQUIRED, FileFacts, Manifest, keys_of
from deapcache.results.bundle.speeds import speeds_of
from deapcache.results.files import runs_in
from deapcache.results.record import Result

PICTURE_BYTES = 1_000_000
"""Pictures above this are left out."""

_SHOWN = 5
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What packing came to."""

    runs: tuple[str, ...]
    without_picture: tuple[str, ...]
    """Runs whose picture is too large."""
    speeds: tuple[str, ...]
    """Keys of the speeds of their backbones and readouts."""
    data: bytes
    """The zip file."""


def find_runs(home: Location, given: Sequence[str]) -> list[str]:
    """The runs of ``home`` that are meant: of each name the run, or all runs that begin with it, in order.

    Raises :class:`UnknownNameError` for a beginning that no run has.
    """
    there = runs_in(home, "results", ".json")
    found: dict[str, None] = {}
    for name in given:
        fitting = [name] if name in there else [run for run in there if run.startswith(name)]
        if not fitting:
            some = ", ".join(there[:_SHOWN]) or "none"
            raise UnknownNameError(f"no result in {home} begins with {name!r}: there are {some}")
        found |= dict.fromkeys(fitting)
    return list(found)


def pack_bundle(home: Location, runs: Sequence[str]) -> Packed:
    """Results, statistics, readouts and small pictures of ``runs``, and speeds, in one zip file; no features.

    Speeds are those that ``home`` has of the backbones and readouts of these runs, on all devices.

    Raises :class:`BundleError` for a run or speed that would be refused, and for what a bundle cannot hold.
    """
    files: dict[str, bytes] = {}
    large: list[str] = []
    results: list[Result] = []
    for run in runs:
        found = _files_of(home, run)
        results.append(check_run(run, found))
        if len(found.get(PICTURE, b"")) > PICTURE_BYTES:
            large.append(run)
            del found[PICTURE]
        files |= {keys_of(run)[what]: data for what, data in found.items()}
    speeds = speeds_of(home, results)
    files |= speeds
    manifest = Manifest(
        made=now(),
        deapcache=version("deapcache"),
        runs=tuple(runs),
        files={name: FileFacts(bytes=len(data), sha256=_sha256(data)) for name, data in files.items()},
    )
    manifest = Manifest.from_json(json.loads(json.dumps(manifest.to_json())))  # what would be refused is not made
    about = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False).encode()
    return Packed(
        runs=tuple(runs),
        without_picture=tuple(large),
        speeds=tuple(speeds),
        data=_zipped({MANIFEST: about, **files}),
    )


def _files_of(home: Location, run: str) -> dict[str, bytes]:
    found = {}
    for what, key in keys_of(run).items():
        try:
            found[what] = home.read(key)
        except FileNotFoundError:
            if what in REQUIRED:
                raise BundleError(f"run {run}: {home} has no {key}; run its probe again") from None
    return found


def _zipped(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return packed.getvalue()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
