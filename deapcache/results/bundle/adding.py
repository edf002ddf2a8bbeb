"""Merging a bundle into a home."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deapcache.errors import BundleError
from deapcache.locations import Location
from deapcache.machine import now
from deapcache.recipe import SHORT
from deapcache.results.bundle.archive import Archive, open_archive
from deapcache.results.bundle.checking import check_run
from deapcache.results.bundle.contents import RESULT, keys_of
from deapcache.results.bundle.speeds import check_speed
from deapcache.results.record import result_key

FOLDER = "submissions"
"""Of the home: what each merged bundle said about itself."""


@dataclass(frozen=True, kw_only=True)
class BundleReport:
    """What merging a bundle came to."""

    bundle: str
    """sha256 of the file."""
    added: tuple[str, ...]
    """Runs that are new in the home."""
    there: tuple[str, ...]
    """Runs that it had already, byte for byte."""
    speeds: tuple[str, ...]
    """Keys of speeds that are new in the home."""
    kept: tuple[str, ...]
    """Keys of speeds of which the home has a measurement of its own, which stays."""


def add_bundle(path: Path, home: Location) -> BundleReport:
    """Check a bundle that `deapcache submit` made, and merge its runs and speeds into ``home``; all of them, or none.

    Two measurements of a speed differ as a matter of course, so one of the home's own stays, and refuses nothing.

    What the bundle says about itself is kept as ``submissions/<first characters of its sha256>.json``. Nothing of a
    bundle is executed, unpickled or unpacked to disk before it was checked.

    Raises :class:`BundleError` that says why a bundle is refused: damaged, larger than is taken, not what its manifest
    says, results or speeds whose identity or numbers do not follow from their contents, of a task that is not known
    here (a plugin's), or a run of which ``home`` has another result.
    """
    with open_archive(path) as archive:
        runs = archive.manifest.runs
        there = [run for run in runs if _is_there(home, run, archive)]
        results = [check_run(run, _files(archive, run)) for run in runs]
        speeds = {key: archive.read(key) for key in archive.manifest.speeds}
        for key, data in speeds.items():
            check_speed(key, data, results)
        own = [key for key in speeds if home.exists(key)]
        added = [run for run in runs if run not in there]
        for run in added:
            _publish(home, run, _files(archive, run))
        for key in speeds.keys() - own:
            home.publish(key, speeds[key])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        about = {"bundle": digest, "added": now()}
        kept = json.dumps({**about, **archive.manifest.to_json()}, indent=1)
        home.publish(f"{FOLDER}/{digest[:SHORT]}.json", kept.encode())
    return BundleReport(
        bundle=digest,
        added=tuple(added),
        there=tuple(there),
        speeds=tuple(key for key in speeds if key not in own),
        kept=tuple(key for key in own if home.read(key) != speeds[key]),
    )


def _is_there(home: Location, run: str, archive: Archive) -> bool:
    """Whether the home has this very result; raises :class:`BundleError` where it has another of that name."""
    try:
        kept = home.read(result_key(run))
    except FileNotFoundError:
        return False
    if kept != archive.read(result_key(run)):
        raise BundleError(
            f"run {run}: {home} has another result of that name, made by another pass; remove one of them"
        )
    return True


def _files(archive: Archive, run: str) -> dict[str, bytes]:
    return {what: archive.read(key) for what, key in keys_of(run).items() if key in archive.manifest.files}


def _publish(home: Location, run: str, files: Mapping[str, bytes]) -> None:
    # the result last: where it is, the others are
    for what in sorted(files, key=lambda what: what == RESULT):
        home.publish(keys_of(run)[what], files[what], replace=True)
