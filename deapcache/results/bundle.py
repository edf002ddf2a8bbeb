"""Bundles: results in one zip file, to be sent to whoever keeps a leaderboard, and to be checked and merged there.

A bundle holds a manifest, the files of each run, and speeds, under the names that they have in a home. Anybody may have
made it: nothing in it is executed, unpickled or unpacked to disk, and nothing is read that is larger than its limit.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from deapcache.backbones import BACKBONES, arithmetic_key, join_name, split_name
from deapcache.errors import BundleError, DeapcacheError, UnknownNameError
from deapcache.locations import Location, require_reached
from deapcache.machine import now
from deapcache.recipe import SHORT, FeatureRecipe, Protocol, TargetRecipe
from deapcache.results.documents import AboutBackbone, MetricFacts
from deapcache.results.files import checked, parse_arrays, runs_in
from deapcache.results.intervals import same_score, task_of
from deapcache.results.record import (
    RESULT_MODEL,
    SCHEMA_VERSION,
    Result,
    Statistics,
    inner_problem,
    known_metrics,
    parse_statistics,
    picture_key,
    readout_key,
    result_key,
    run_id,
    statistics_key,
)
from deapcache.results.speeds import BACKBONE, SPEED_MODEL, Speed, read_speeds, speed_key, speed_stem
from deapcache.results.speeds import READOUT as READOUT_SPEED
from deapcache.results.speeds import SCHEMA as SPEED_SCHEMA
from deapcache.untrusted import is_hidden, parse_json, require_printable

SCHEMA = 1
KIND = "deapcache results"
MANIFEST = "manifest.json"
FOLDER = "submissions"
"""Of the home: what each merged bundle said about itself."""

RESULT, STATISTICS, READOUT, PICTURE = "result", "statistics", "readout", "picture"
REQUIRED = (RESULT, STATISTICS, READOUT)

LIMITS: Mapping[str, int] = {
    RESULT: 4_000_000,
    STATISTICS: 256_000_000,
    READOUT: 256_000_000,
    PICTURE: 4_000_000,
}
"""Bytes that a file may have, by what it is. Statistics of boundaries on COCO's 5,000 validation images take 42 MB; a
full bank of `knn`, 77 MB at 768 channels and 205 MB at 2,048."""
MANIFEST_LIMIT = 4_000_000
SPEED_LIMIT = 64_000
"""Bytes of a speed."""
MOST_RUNS = 1000
MOST_SPEEDS = 1000
MOST_BYTES = 2_000_000_000
"""Of all files of a bundle together, unpacked."""
PICTURE_BYTES = 1_000_000
"""Pictures above this are not packed."""
_PICTURE_SIDE = 10_000
"""Pixels that a picture may be wide or high."""

REFERENCE = "imagenet"
"""A ViT-B/16 at 224: relative speeds are to one of its architecture."""
_SAME = 1e-9
"""By how much a number of a speed may differ from that computed again, as a share."""

_SPEED = re.compile(r"speed/[A-Za-z0-9._@+-]{1,230}\.json")
_RUN = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9._@-]{0,249}")
_RUNS_NAMED = 5
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""Time of each entry: the same files give the same bytes."""

# The zip format's end of central directory, with and without the locator of its 64-bit form.
_END = b"PK\x05\x06"
_END_BYTES = 22
_ZIP64 = b"PK\x06\x07"
_ZIP64_BYTES = 20
_MOST_ENTRIES = 1 + len(LIMITS) * MOST_RUNS + MOST_SPEEDS
_MOST_LISTING = 400 * _MOST_ENTRIES
"""Bytes of a zip file's own table of contents."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError)
"""What zipfile raises for a damaged or encrypted entry."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was packed."""

    runs: tuple[str, ...]
    without_picture: tuple[str, ...]
    """Runs whose picture is too large."""
    speeds: tuple[str, ...]
    """Keys of the speeds of their backbones and readouts."""
    data: bytes
    """The zip file."""


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


def keys_of(run: str) -> dict[str, str]:
    """What a file of a run is → its key in a home, and its name in a bundle."""
    return {
        RESULT: result_key(run),
        STATISTICS: statistics_key(run),
        READOUT: readout_key(run),
        PICTURE: picture_key(run),
    }


# Packing


def find_runs(home: Location, given: Sequence[str]) -> list[str]:
    """The runs of ``home`` that are meant: of each name the run, or all runs that begin with it, in order.

    Raises :class:`UnknownNameError` for a beginning that no run has.
    """
    there = runs_in(home, "results", ".json")
    found: dict[str, None] = {}
    for name in given:
        fitting = [name] if name in there else [run for run in there if run.startswith(name)]
        if not fitting:
            some = ", ".join(there[:_RUNS_NAMED]) or "none"
            raise UnknownNameError(f"no result in {home} begins with {name!r}: there are {some}")
        found |= dict.fromkeys(fitting)
    return list(found)


def pack_bundle(home: Location, runs: Sequence[str]) -> Bundle:
    """Results, statistics, readouts and small pictures of ``runs``, and speeds, in one zip file; no features.

    Speeds are those that ``home`` has of the backbones and readouts of these runs, on all devices.

    Raises :class:`BundleError` for a run or speed that would be refused, and for what a bundle cannot hold.
    """
    files: dict[str, bytes] = {}
    large: list[str] = []
    results: list[Result] = []
    for run in runs:
        found = {}
        for what, key in keys_of(run).items():
            try:
                found[what] = home.read(key)
            except FileNotFoundError:
                if what in REQUIRED:
                    raise BundleError(f"run {run}: {home} has no {key}; run its probe again") from None
        results.append(check_run(run, found))
        if len(found.get(PICTURE, b"")) > PICTURE_BYTES:
            large.append(run)
            del found[PICTURE]
        files |= {keys_of(run)[what]: data for what, data in found.items()}
    stems = {speed_stem(BACKBONE, result.backbone) for result in results}
    stems |= {speed_stem(READOUT_SPEED, result.readout) for result in results}
    speeds = {key: home.read(key) for key in read_speeds(home) if f"{key.rpartition('-')[0]}-" in stems}
    for key, data in speeds.items():
        check_speed(key, data, results)
    files |= speeds
    facts = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    about = {"kind": KIND, "schema": SCHEMA, "made": now(), "deapcache": version("deapcache"), "runs": runs}
    manifest = read_manifest({**about, "files": facts})  # what would be refused is not made
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        listing = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
        for name, data in {MANIFEST: listing, **files}.items():
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return Bundle(runs=tuple(runs), without_picture=tuple(large), speeds=tuple(speeds), data=packed.getvalue())


# Merging


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
        manifest = archive.manifest

        def files_of(run: str) -> dict[str, bytes]:
            return {what: archive.read(key) for what, key in keys_of(run).items() if key in manifest["files"]}

        there = [run for run in manifest["runs"] if _is_there(home, run, archive)]
        results = [check_run(run, files_of(run)) for run in manifest["runs"]]
        speeds = {key: archive.read(key) for key in _speeds_in(manifest)}
        for key, data in speeds.items():
            check_speed(key, data, results)
        own = [key for key in speeds if home.exists(key)]
        added = [run for run in manifest["runs"] if run not in there]
        for run in added:
            # the result last: where it is, the others are
            for what, data in sorted(files_of(run).items(), key=lambda file: file[0] == RESULT):
                home.publish(keys_of(run)[what], data, replace=True)
        for key in speeds.keys() - own:
            home.publish(key, speeds[key])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        kept = json.dumps({"bundle": digest, "added": now(), **manifest}, indent=1)
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


# The manifest and the zip file


def read_manifest(document: Any) -> dict[str, Any]:
    """What a bundle says that it holds, where it may be taken: the files of its runs, and speeds, none too large.

    ``kind`` and ``schema``; ``made``, UTC, ISO 8601; ``deapcache``, the version that packed it; ``runs``; ``files``,
    name → ``bytes`` and ``sha256``. Raises :class:`BundleError`, and ``KeyError`` and the like.
    """
    if document["kind"] != KIND or document["schema"] != SCHEMA:
        raise BundleError(
            f"{MANIFEST} says {document['kind']!r} of schema {document['schema']!r}, this deapcache reads "
            f"{KIND!r} of schema {SCHEMA}"
        )
    files: dict[str, dict[str, Any]] = {
        str(name): {"bytes": int(facts["bytes"]), "sha256": str(facts["sha256"])}
        for name, facts in document["files"].items()
    }
    manifest: dict[str, Any] = {
        "kind": KIND,
        "schema": SCHEMA,
        "made": str(document["made"]),
        "deapcache": str(document["deapcache"]),
        "runs": list(map(str, document["runs"])),
        "files": files,
    }
    runs, speeds = manifest["runs"], _speeds_in(manifest)
    if not 0 < len(runs) <= MOST_RUNS or len(set(runs)) != len(runs):
        raise BundleError(f"{MANIFEST} names {len(runs)} runs: expected 1 to {MOST_RUNS}, each once")
    if odd := [run for run in runs if not _RUN.fullmatch(run)]:
        raise BundleError(f"{odd[0]!r} is no name of a run")
    required = {keys_of(run)[what] for run in runs for what in REQUIRED}
    if missing := sorted(required - set(files)):
        raise BundleError(f"{MANIFEST} does not list {missing[0]}")
    allowed = {key: LIMITS[what] for run in runs for what, key in keys_of(run).items()}
    allowed |= dict.fromkeys(speeds, SPEED_LIMIT)
    if len(speeds) > MOST_SPEEDS:
        raise BundleError(f"{MANIFEST} lists {len(speeds)} speeds: at most {MOST_SPEEDS} are taken")
    if strange := sorted(set(files) - set(allowed)):
        raise BundleError(f"{MANIFEST} lists {strange[0]!r}, which is no file of its runs and no speed")
    for name, facts in files.items():
        if not 0 < facts["bytes"] <= allowed[name]:
            raise BundleError(f"{name} has {facts['bytes']:,} bytes, at most {allowed[name]:,} are taken")
    if (total := sum(facts["bytes"] for facts in files.values())) > MOST_BYTES:
        raise BundleError(f"its files have {total:,} bytes together, at most {MOST_BYTES:,} are taken")
    return manifest


def _speeds_in(manifest: Mapping[str, Any]) -> list[str]:
    """Names of the files that are speeds."""
    return [name for name in manifest["files"] if _SPEED.fullmatch(name)]


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The bundle in ``path``; raises :class:`BundleError` that names it, also for what is raised in the block."""
    try:
        with path.open("rb") as file:
            _check_end(file)
            with zipfile.ZipFile(file) as opened:
                yield Archive(opened)
    except FileNotFoundError:
        raise BundleError(f"bundle {path}: no such file; `deapcache submit RUN --out FILE.zip` makes one") from None
    except BundleError as error:
        raise BundleError(f"bundle {path} is refused: {error}") from None
    except (zipfile.BadZipFile, OSError) as error:
        require_reached(error, path)
        raise BundleError(f"bundle {path} is refused: it is no zip file that can be read: {error}") from None


def _check_end(file: IO[bytes]) -> None:
    # zipfile reads the whole table of contents before one can look at it: how large it is stands at the file's end
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_BYTES - _ZIP64_BYTES))
    tail = file.read()
    end = tail[-_END_BYTES:]
    if not end.startswith(_END) or end[-2:] != b"\0\0" or tail.startswith(_ZIP64):
        raise BundleError("it is no plain zip file as `deapcache submit` makes them")
    entries, listing = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if entries > _MOST_ENTRIES or listing > _MOST_LISTING:
        raise BundleError(f"it lists {entries:,} files, at most {_MOST_ENTRIES:,} are taken")


class Archive:
    """An opened bundle, whose entries are those that its manifest lists."""

    def __init__(self, opened: zipfile.ZipFile) -> None:
        self._zip = opened
        self._entries = _entries(opened)
        data = self._read(MANIFEST, MANIFEST_LIMIT)
        try:
            self.manifest = read_manifest(parse_json(data))
        except BundleError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{MANIFEST} is not one of deapcache: {type(error).__name__}: {error}") from None
        if strange := sorted(set(self._entries) - {MANIFEST, *self.manifest["files"]}):
            raise BundleError(f"it holds {strange[0]!r}, which its manifest does not list")

    def read(self, name: str) -> bytes:
        """The bytes of a listed file; raises :class:`BundleError` where they are not what the manifest says."""
        facts = self.manifest["files"][name]
        data = self._read(name, facts["bytes"])
        if len(data) != facts["bytes"] or hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise BundleError(f"{name} is not what {MANIFEST} says: its sha256 or its length differs")
        return data

    def _read(self, name: str, limit: int) -> bytes:
        entry = self._entries.get(name)
        if entry is None:
            raise BundleError(f"it lacks {name}")
        if entry.file_size > limit:
            raise BundleError(f"{name} unpacks to {entry.file_size:,} bytes, expected at most {limit:,}")
        try:
            with self._zip.open(entry) as file:
                return file.read(limit + 1)
        except _BROKEN as error:
            raise BundleError(f"{name} cannot be unpacked: {error}") from None


def _entries(opened: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in opened.infolist():
        if is_hidden(entry.filename) or entry.filename.startswith("__MACOSX/"):
            continue  # what a Mac adds to every zip file that it makes
        if entry.filename in found:
            raise BundleError(f"it holds {entry.filename!r} twice")
        if entry.compress_type not in _METHODS or entry.flag_bits & 0x1:
            raise BundleError(f"{entry.filename!r} is encrypted, or packed otherwise than deapcache does")
        found[entry.filename] = entry
    if (total := sum(entry.file_size for entry in found.values())) > MOST_BYTES:
        raise BundleError(f"it unpacks to {total:,} bytes, at most {MOST_BYTES:,} are taken")
    return found


# Whether files are what they say


def check_run(run: str, files: Mapping[str, bytes]) -> Result:
    """The result of ``run`` whose files these are, by what they are.

    Its name, its protocol's digest and those of its caches are computed again, and so are its scores, from the
    statistics of each image. Raises :class:`BundleError` that says what does not fit.
    """
    try:
        result = _result(files[RESULT])
        _check_identity(run, result)
        _check_scores(result, _statistics(result, files[STATISTICS]))
        _check_readout(result, files[READOUT])
        if PICTURE in files:
            size = _parsed("picture", lambda: _picture_size(files[PICTURE]))
            _require(
                max(size) <= _PICTURE_SIDE,
                f"its picture is {size[0]}x{size[1]} pixels, at most {_PICTURE_SIDE} are taken",
            )
    except DeapcacheError as error:
        raise BundleError(f"run {run}: {error}") from None
    except Exception as error:  # the files are anybody's: what is expected to be a table may be a number
        raise BundleError(f"run {run}: its files are not deapcache's: {type(error).__name__}: {error}") from None
    return result


def _result(data: bytes) -> Result:
    try:
        document = checked(data, RESULT_MODEL, schema=SCHEMA_VERSION)
        require_printable([document])
    except ValueError as error:
        raise BundleError(f"its result is not one of deapcache: {error}") from None
    result = Result.from_json(document)
    unknown = document.keys() - result.to_json().keys() | result.about.keys() - AboutBackbone.__annotations__.keys()
    unknown |= {name for facts in result.metrics.values() for name in facts.keys() - MetricFacts.__annotations__.keys()}
    _require(not unknown, f"its result has fields that this deapcache does not know: {', '.join(sorted(unknown))}")
    problem = inner_problem(result)
    _require(not problem, problem)
    return result


def _check_identity(run: str, result: Result) -> None:
    protocol = Protocol.from_json(result.protocol)
    named = (result.task, result.dataset, result.readout)
    _require((protocol.task, protocol.dataset, protocol.readout) == named, "its protocol is of another task or readout")
    _require(protocol.digest == result.protocol_digest, "its protocol does not have the digest that it says")
    for name, cache in result.caches.items():
        recipe = (TargetRecipe if name.endswith("targets") else FeatureRecipe).from_json(cache["recipe"])
        _require(recipe.digest == cache["digest"], f"the recipe of its {name} does not have the digest that it says")
        if isinstance(recipe, FeatureRecipe):
            # its own name, at any image size, or the label of a checkpoint
            model, seed, _ = split_name(result.backbone)
            is_label = (":" not in model and model not in BACKBONES) or model.startswith(f"{recipe.backbone}+")
            is_same = is_label or join_name(model, seed) == recipe.backbone
            _require(is_same, f"its {name} features are of another backbone")
    _require(result.run == run == run_id(result.to_json()), "its name is not the one that its contents have")


def _statistics(result: Result, data: bytes) -> Statistics:
    arrays = _parsed("statistics", lambda: parse_arrays(data)[0])
    statistics = _parsed("statistics", lambda: parse_statistics(arrays))
    lengths = {len(array) if array.ndim else 0 for array in (*statistics.run.values(), *statistics.prior.values())}
    _require(
        lengths == {result.val_images} and len(statistics.image_ids) == result.val_images,
        f"its statistics are not of the {result.val_images} images that it was scored on",
    )
    return statistics


def _check_scores(result: Result, statistics: Statistics) -> None:
    task = task_of(result)  # of a task that is not known here: the error names it
    _require(
        # those of before lack metrics that came later, and may have another main one
        result.main_metric in (task.main_metric, *task.former_main_metrics)
        and set(result.metrics) <= set(task.metrics),
        f"its metrics are not those of task {result.task}, whose main metric is {task.main_metric}",
    )
    for name, facts in ((name, known_metrics(result.task)[name]) for name in result.metrics):
        better = "higher" if facts["higher_is_better"] else "lower"
        same = result.metrics[name]["higher_is_better"] is facts["higher_is_better"]
        _require(same, f"it takes the other {name} for the better one: a {better} one is")
    _require(math.isfinite(result.scores.get(result.main_metric, math.nan)), f"its {result.main_metric} is no number")
    for kept, arrays in ((result.scores, statistics.run), (result.prior, statistics.prior)):
        found = _parsed("statistics", lambda arrays=arrays: task.scores(dict(arrays)))  # type: ignore[misc]
        _require(set(kept) <= set(found), "its statistics give other scores than it has")
        for name in kept:
            differs = f"its {name} is {kept[name]:.6f}, its statistics give {found[name]:.6f}"
            _require(same_score(kept[name], found[name]), differs)


def _check_readout(result: Result, data: bytes) -> None:
    weights, facts = _parsed("readout", lambda: parse_arrays(data))
    _require(facts.get("run") == result.run, "its readout is of another run")
    _require(facts.get("readout") == dict(result.build), "its readout is built otherwise than its result says")
    _require(bool(weights), "its readout has no weights")
    finite = all(np.isfinite(array).all() for array in weights.values() if array.dtype.kind == "f")
    _require(finite, "its readout has weights that are no numbers")


def _picture_size(data: bytes) -> tuple[int, int]:
    """Pixels, width first, of a whole PNG."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        picture.verify()
        return picture.size


def check_speed(key: str, data: bytes, results: Iterable[Result]) -> Speed:
    """The speed in ``data``, by what it is: of a backbone or readout of ``results``, and under its own name.

    Rates and ratios are computed again from the seconds of each batch. Raises :class:`BundleError` that says what does
    not fit.
    """
    try:
        document = checked(data, SPEED_MODEL, schema=SPEED_SCHEMA)
        require_printable([document])
        speed = Speed.from_json(document)
        again = speed.to_json()
        _require(set(document) == set(again), "it has other fields than a speed of this deapcache")
        for name, value in again.items():
            _require(_same(document[name], value), f"its {name} does not follow from the seconds of its batches")
        if speed.kind == BACKBONE and speed.name == speed.reference:
            _require(_same(speed.runtime_factor, 1.0), "it is the reference, whose relative speed is 1")
        _require(speed_key(speed) == key, "its name is not the one that its contents have")
        named = {result.backbone if speed.kind == BACKBONE else result.readout for result in results}
        _require(speed.name in named, f"it is of {speed.kind} {speed.name!r}, of which there is no run here")
        is_reference = arithmetic_key(speed.reference) == arithmetic_key(REFERENCE)
        _require(is_reference, f"{speed.reference!r} is no ViT-B/16 at 224")
    except DeapcacheError as error:
        raise BundleError(f"{key}: {error}") from None
    except Exception as error:  # the file is anybody's: what is expected to be a number may be a table
        raise BundleError(f"{key} is no speed of deapcache: {type(error).__name__}: {error}") from None
    return speed


def _same(kept: Any, found: Any) -> bool:
    if isinstance(found, Mapping):
        return set(kept) == set(found) and all(_same(kept[name], value) for name, value in found.items())
    if isinstance(found, float):
        return type(kept) in (int, float) and math.isclose(kept, found, rel_tol=_SAME)
    return bool(kept == found)


def _parsed(what: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except DeapcacheError:
        raise
    except Exception as error:  # made by anybody: arrays of any shape, and numpy and Pillow raise what they like
        raise BundleError(f"its {what} cannot be read: {type(error).__name__}: {error}") from None


def _require(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise BundleError(otherwise)
