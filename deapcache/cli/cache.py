"""``deapcache cache``: looking at the caches of a home, looking after them, copying and serving them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import Bars, bars, duration, err, note, out, print_json, size, table
from deapcache.cli.extract import progress_on
from deapcache.cli.options import App
from deapcache.errors import (
    CacheInUseError,
    CacheMissError,
    CorruptCacheError,
    DeapcacheError,
    LocationError,
    ResultsError,
    UnreadableError,
    UsageError,
)
from deapcache.locations import LocalLocation, Location, redacted

if TYPE_CHECKING:
    from deapcache.cache import Cache, CacheEntry, CacheFolder, TransferReport, VerifyReport
    from deapcache.extraction import RepairReport
    from deapcache.results.last_used import Uses

FAILURE = 1
"""Something is damaged, was not copied, or could not be made whole."""

_NAMED_IMAGES = 20
"""Image ids that are spelled out of each damaged file; --json has all."""
_PICTURED_IMAGES = 8
"""Images of a picture, spread over the cache."""
_AGE_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


One = Annotated[str, typer.Argument(help="Part of the cache's path, or first characters of its digest.")]
UsedBy = Annotated[
    list[str] | None,
    typer.Option("--used-by", metavar="HOME", help="A further home whose results count as uses; may be repeated."),
]
Filter = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        help="Only caches with this TEXT in the path or at the beginning of the digest, or with FIELD=VALUE: dataset, "
        "split, backbone, storage, complete=false, …; may be repeated.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")]
app = App(help="Look at the caches of a home, and look after them.", no_args_is_help=True)


# --- ls, info, diff ---------------------------------------------------------------------------------------------------


@app.command("ls")
def list_command(
    home: options.Home = None,
    read_home: options.ReadHomes = None,
    filters: Filter = None,
    used_by: UsedBy = None,
    json: options.Json = False,
) -> None:
    """Caches of a home: what, images, bytes, whether complete, who made them and when, when a probe last used them."""
    from deapcache.cache import list_caches

    place = options.place(home, read_home)
    uses = _uses(place, used_by)
    rows = [row for row, wanted in _rows(list_caches(place), uses, filters or []) if wanted]
    if json:
        print_json(rows)
    elif rows:
        out.print(_row_table(rows, several_homes=len(place.layers) > 1))
    elif filters:
        out.print(f"no cache in {place} fits {' and '.join(filters)}", markup=False)
    else:
        out.print(f"no caches in {place}: make one with deapcache extract --backbone NAME --dataset NAME", markup=False)


def _row_table(rows: list[dict[str, Any]], *, several_homes: bool) -> Any:
    names = ("kind", "dataset", "split", "name", "view", *(("home",) if several_homes else ()))
    listed = table(*names, "images", "size", "who", "when", "last use", "digest", right=("images", "size"))
    for row in rows:
        which = [row[name] for name in names]
        if "error" in row:
            listed.add_row(*which, "unreadable", "–", "–", "–", "–", row["error"])
            continue
        images = f"{row['present']:,}" if row["complete"] else f"{row['present']:,} of {row['images']:,}"
        made = (row["who"] or "–", _moment_text(row["when"]), _moment_text(row["last_use"]))
        listed.add_row(*which, images, size(row["bytes"]), *made, row["digest"][:12])
    return listed


@app.command("info")
def info_command(
    cache: One,
    home: options.Home = None,
    read_home: options.ReadHomes = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Read all features: mean, deviation, range, constant channels.")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture",
            metavar="OUT.png",
            callback=options.local_path,
            help="Draw a few feature volumes, their first three principal components as red, green and blue, beside "
            "the base images where these are cached.",
        ),
    ] = None,
    used_by: UsedBy = None,
    json: options.Json = False,
) -> None:
    """Everything about the caches that fit: recipe, shapes, who made them and how; a picture of features."""
    from deapcache.cache import select_caches

    place = options.place(home, read_home)
    entries = select_caches(place, [cache])
    last_uses = _uses(place, used_by).last
    rows = [
        {**(_summary(entry, last_uses.get(entry.digest)) or {}), **_details(entry, statistics)} for entry in entries
    ]
    if picture is not None:
        _draw(entries, picture)
    if json:
        print_json(rows)
        return
    for row in rows:
        _show_details(row)


def _details(entry: CacheEntry, statistics: bool) -> dict[str, Any]:
    from deapcache.cache import FeatureCache

    cache = entry.open()
    found = None
    if statistics and isinstance(cache, FeatureCache):
        from deapcache.cache.statistics import feature_statistics

        found = feature_statistics(cache)
    return {
        "statistics": found.to_json() if found else {},
        **({"covered": cache.covered} if isinstance(cache, FeatureCache) and cache.covered != (1.0, 1.0) else {}),
        "recipe": cache.recipe,
        "arrays": {
            spec.name: {"dtype": spec.dtype, "shape": [len(cache), *spec.item_shape]} for spec in cache.arrays.values()
        },
        "shard_images": cache.shard_images,
        "shards": cache.shard_count,
        "provenance": cache.provenance(),
    }


def _draw(entries: list[CacheEntry], picture: Path) -> None:
    """The picture of the one feature cache among those that fit."""
    from deapcache.cache import related_caches
    from deapcache.results.draw import draw_cache

    features = [entry for entry in entries if entry.kind == "features"]
    if len(features) != 1:
        listed = "\n".join(f"  {entry.path}" for entry in features) or "  none"
        raise UsageError(f"--picture draws one cache of features; these fit:\n{listed}")
    images = [other for other in related_caches(features[0]) if other.kind == "images"]
    data = draw_cache(features[0], images[0] if images else None, _PICTURED_IMAGES)
    locations.locate(picture.parent).publish(picture.name, data, replace=True)
    note(f"picture: {picture}")


def _show_details(row: dict[str, Any]) -> None:
    out.print(f"{row['home']}/{row['path']}", style="bold", soft_wrap=True)
    listed = table("", "")
    listed.show_header = False
    listed.add_row(
        "images", f"{row['present']:,} of {row['images']:,} in {row['shards']} shards of {row['shard_images']}"
    )
    listed.add_row("size", size(row["bytes"]))
    listed.add_row("last written", _moment_text(row["when"]))
    listed.add_row("last used by a probe", _moment_text(row["last_use"]))
    for name, array in row["arrays"].items():
        listed.add_row(f"array {name}", f"{array['dtype']} {tuple(array['shape'])}")
    if "covered" in row:
        listed.add_row("cells cover", "{:.2%} of the height, {:.2%} of the width".format(*row["covered"]))
    for field, value in row["statistics"].items():
        listed.add_row(f"features {field.replace('_', ' ')}", str(value))
    for field, value in row["recipe"].items():
        listed.add_row(f"recipe {field}", str(value))
    for facts in row["provenance"]:
        for field, value in facts.items():
            listed.add_row(f"writer {field}", str(value))
    out.print(listed)


@app.command("diff")
def diff_command(
    one: Annotated[str, typer.Argument(metavar="A", help="Part of a path, or first characters of a digest.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """In which recipe fields two caches differ; recipes decide every number, so that equal ones name one cache."""
    from deapcache.cache import as_text, select_cache
    from deapcache.recipe import differences

    place = locations.home(home)
    left, right = select_cache(place, one), select_cache(place, other)
    if left.kind != right.kind:
        raise UsageError(f"{left.path} holds {left.kind} and {right.path} {right.kind}: give two caches of one kind")
    found = differences(left.fields, right.fields)
    if json:
        fields = {each.field: {"a": each.left, "b": each.right} for each in found}
        print_json({"a": left.path, "b": right.path, "differences": fields})
        return
    if not found:
        out.print(f"the same recipe, {left.digest[:12]}: {left.location} and {right.location}", markup=False)
        return
    listed = table("field", left.path, right.path)
    for each in found:
        listed.add_row(each.field, as_text(each.left), as_text(each.right))
    out.print(listed)


# --- verify, repair ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Recompute:
    """How the backbone of stored features runs again, where it does."""

    live: Annotated[
        int | None,
        typer.Option("--live", metavar="N", help="Also run the backbone on N random images and compare."),
    ] = None
    seed: Annotated[int, typer.Option("--seed", help="Which images --live draws.")] = 0
    weights: Annotated[
        Path | None, typer.Option("--weights", help="With --live: the checkpoint that the extraction was given.")
    ] = None
    device: options.Device = "auto"


@app.command("verify")
def verify_command(
    *,
    caches: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CACHE]...", help="Parts of paths, or first characters of digests. Default: all."),
    ] = None,
    recompute: _Recompute,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Files read at once. Default: two a core, 4 from a server.")
    ] = None,
    home: options.Home = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> int:
    """Read every byte of caches and compare every checksum; exit code 1 where something is damaged.

    Shards that were not extracted yet are no damage.
    """
    from deapcache.cache import select_folders

    if (recompute.live is not None and recompute.live < 1) or (threads is not None and threads < 1):
        raise UsageError("--live and --threads take a number of at least 1")
    folders = select_folders(options.own_home(home), caches or [])
    documents, bad = [], 0
    with bars() as shown:
        for folder in folders:
            document, lines = _verify(folder, threads, shown)
            is_of_features = folder.entry is not None and folder.entry.kind == "features"
            if recompute.live and is_of_features and "error" not in document:
                document["live"], more = _recompute(folder, document, recompute, recompute.live, shown)
                lines += more
            recomputed = document.get("live", {})
            documents.append(document)
            bad += not document["sound"] or bool(recomputed.get("bad")) or "error" in recomputed
            if not json:
                for line in lines:
                    out.print(line, markup=False)
    if json:
        print_json(documents)
    else:
        out.print(f"{len(folders)} caches, {bad} of them damaged" if folders else "no caches", markup=False)
    return FAILURE if bad else 0


def _verify(folder: CacheFolder, threads: int | None, shown: Bars) -> tuple[dict[str, Any], list[str]]:
    from deapcache.cache import verify_cache

    if not folder.has_root:
        text = f"{folder.path}: no cache: its root zarr.json is missing, as a removal or a creation that was cut off"
        text += f" leaves it. Extract again to make it whole, or {_command('rm', folder)}"
        return {"path": folder.path, "sound": True, "error": text}, [text]
    try:
        report = verify_cache(folder.location, threads=threads, progress=progress_on(shown))
    except CacheMissError:
        text = f"{folder.path}: it was removed since it was listed"
        return {"path": folder.path, "sound": True, "error": text}, [text]
    return {"path": folder.path, **report.to_json()}, _verify_lines(folder, report)


def _verify_lines(folder: CacheFolder, report: VerifyReport) -> list[str]:
    rate = f"{report.bytes / max(report.seconds, 1e-9) / 1e6:.0f} MB/s"
    read = f"{report.files} files, {size(report.bytes)} in {duration(report.seconds)} ({rate})"
    missing = f"; {len(report.missing)} of {report.shards} shards are not there yet" if report.missing else ""
    if report.is_sound:
        return [f"{folder.path}: sound: {read}{missing}"]
    lines = [f"{folder.path}: DAMAGED: {read}{missing}"]
    lines += [f"  {report.location}/{key}: {problem}" for key, problem in report.problems.items()]
    for bad in report.bad:
        ids = bad.image_ids or tuple(f"row {row}" for row in bad.rows)
        more = f" and {len(ids) - _NAMED_IMAGES} more" if len(ids) > _NAMED_IMAGES else ""
        lines.append(f"  {report.location}/{bad.key}: {bad.reason}; images {', '.join(ids[:_NAMED_IMAGES])}{more}")
    return [*lines, f"  repair it with: {_command('repair', folder)}"]


def _recompute(
    folder: CacheFolder, document: dict[str, Any], recompute: _Recompute, images: int, shown: Bars
) -> tuple[dict[str, Any], list[str]]:
    from deapcache.cache import FeatureCache, open_cache
    from deapcache.extraction import recompute_check

    try:
        cache = open_cache(folder.location)
        assert isinstance(cache, FeatureCache)
        report = recompute_check(
            cache,
            folder.home,
            images=images,
            seed=recompute.seed,
            weights=recompute.weights,
            device=recompute.device,
            without={bad["shard"] for bad in document["bad"]},
            progress=progress_on(shown),
        )
    except DeapcacheError as error:
        return {"error": str(error)}, [f"  live: cannot be compared: {error}"]
    cosines = f"cosine min {report.minimum:.6f}, median {report.median:.6f}, at least {report.least:g} is expected"
    lines = [f"  live: {len(report.images)} images forwarded again on {report.device}: {cosines}"]
    lines += [f"  live: BAD: image {one.image_id} (row {one.row}): cosine {one.cosine:.6f}" for one in report.bad]
    return report.to_json(), lines


def _command(verb: str, folder: CacheFolder) -> str:
    return shlex.join(["deapcache", "cache", verb, folder.path, "--home", str(folder.home)])


@app.command("repair")
def repair_command(
    cache: One,
    all_that_fit: Annotated[bool, typer.Option("--all", help="Repair all caches that fit, not exactly one.")] = False,
    only_bad: Annotated[
        bool, typer.Option("--only-bad", help="Leave alone the shards that were never extracted.")
    ] = False,
    data_root: Annotated[
        Path | None,
        typer.Option("--data-root", help="Where the dataset lies: base images and targets are made from its files."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="The checkpoint that the extraction was given.")
    ] = None,
    device: options.Device = "auto",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images in one forward. Default: 32 on a GPU, 8 on a CPU.")
    ] = None,
    home: options.Home = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> int:
    """Verify a cache, delete its damaged shards, and make anew what is damaged or missing, and nothing else.

    Features are made from the base images in the home, base images and targets from the dataset (--data-root). Where
    that cannot be done, damaged shards are deleted all the same, and what to run is said; the exit code is then 1.
    """
    from deapcache.cache import select_folder, select_folders
    from deapcache.extraction import RepairSettings, repair_cache

    place = options.own_home(home)
    place.require_writable()
    folders = select_folders(place, [cache]) if all_that_fit else [select_folder(place, cache)]
    settings = RepairSettings(
        data_root=data_root, weights=weights, device=device, batch_size=batch_size, only_bad=only_bad
    )
    reports = []
    with bars() as shown:
        for folder in folders:
            report = repair_cache(folder, settings, progress=progress_on(shown))
            reports.append(report)
            if not json:
                _show_repair(folder, report)
    if json:
        print_json([{"path": f.path, **r.to_json()} for f, r in zip(folders, reports, strict=True)])
    return 0 if all(report.is_whole for report in reports) else FAILURE


def _show_repair(folder: CacheFolder, report: RepairReport) -> None:
    lines = [f"moved aside, to {key}.damaged: {folder.location}/{key}" for key in report.set_aside]
    if report.removed:
        lines.append(f"deleted the damaged shards {', '.join(map(str, report.removed))}")
    if report.remade:
        lines.append(f"made the shards {', '.join(map(str, report.remade))}")
    if report.problem:
        lines.append(f"cannot make anew what is missing: {report.problem}")
        lines.append(f"run: {report.command}")
    for line in lines or ["nothing to repair"]:
        out.print(f"{folder.path}: {line}", markup=False)


# --- push, pull -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Transfer:
    """What is copied between homes, beside the cache that is named."""

    images: Annotated[
        int | None, typer.Option("--images", help="Only the first N images, rounded up to whole shards.")
    ] = None
    with_targets: Annotated[
        bool, typer.Option("--with-targets", help="Also the base images and the targets of the same images.")
    ] = False
    all_that_fit: Annotated[bool, typer.Option("--all", help="All caches that fit, not exactly one.")] = False
    home: options.Home = None
    json: options.Json = False

    def run(self, text: str, source: Location, destination: Location) -> int:
        """Copy the caches of ``source`` that ``text`` fits; the exit code."""
        from deapcache.cache import transfer_cache

        chosen = list(self._caches(text, source))
        destination.require_writable()
        reports: list[TransferReport] = []
        with bars() as shown:
            for entry, cache, shards in chosen:
                place = destination / entry.path
                report = transfer_cache(cache, place, shards=shards, progress=progress_on(shown))
                reports.append(report)
                if not self.json:
                    _show_transfer(entry, report)
        if self.json:
            print_json([report.to_json() for report in reports])
        return FAILURE if any(report.refused for report in reports) else 0

    def _caches(self, text: str, source: Location) -> Iterator[tuple[CacheEntry, Cache, range | None]]:
        """The caches to copy, each with its shards, None being all; what belongs to one follows it."""
        from deapcache.cache import related_caches, select_cache, select_caches

        if self.images is not None and self.images < 1:
            raise UsageError(f"--images must be at least 1, found {self.images}")
        entries = select_caches(source, [text]) if self.all_that_fit else [select_cache(source, text)]
        related = [[first, *(related_caches(first) if self.with_targets else [])] for first in entries]
        for entry in {entry.path: entry for group in related for entry in group}.values():
            cache = entry.open()
            images = None if self.images is None else min(self.images, len(cache))
            yield entry, cache, None if images is None else range(-(-images // cache.shard_images))


@app.command("push")
def push_command(
    cache: One,
    to: Annotated[str, typer.Option("--to", help="The home to copy to: a path, s3:// or gs://.")],
    transfer: _Transfer,
) -> int:
    """Copy a cache into another home: only what is missing there, every checksum compared on the way.

    After an interruption the same command does the rest. Exit code 1 where a shard could not be copied.
    """
    return transfer.run(cache, options.own_home(transfer.home), locations.locate(to))


@app.command("pull")
def pull_command(
    cache: One,
    origin: Annotated[str, typer.Option("--from", help="The home to copy from: a path, s3://, gs:// or https://.")],
    transfer: _Transfer,
) -> int:
    """Copy a cache, or a part of it, from another home: only what is missing here, every checksum compared.

    After an interruption the same command does the rest. Exit code 1 where a shard could not be copied.
    """
    return transfer.run(cache, locations.locate(origin), options.own_home(transfer.home))


def _show_transfer(entry: CacheEntry, report: TransferReport) -> None:
    text = f"{report.copied} files copied ({size(report.bytes)}), {report.there} were there"
    text += f", {report.absent} of {report.asked} shards are not in the source" if report.absent else ""
    text += "; complete" if report.complete else "; incomplete: what is there can be read"
    out.print(f"{entry.path}: {text}", markup=False)
    for refused in report.refused:
        out.print(f"  NOT COPIED: {report.destination}/{refused.key}: {refused.reason}", markup=False)


# --- rm, prune --------------------------------------------------------------------------------------------------------


@app.command("rm")
def rm_command(
    caches: Annotated[
        list[str], typer.Argument(metavar="CACHE...", help="Part of a path, or first characters of a digest.")
    ],
    all_that_fit: Annotated[
        bool, typer.Option("--all", help="Remove all caches that fit, not exactly one of each.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Remove caches, or what is left of one whose removal was cut off: the same command then goes on.

    Results that were measured with a cache stay.
    """
    from deapcache.cache import select_folder, select_folders

    place = options.own_home(home)
    folders = select_folders(place, caches) if all_that_fit else [select_folder(place, text) for text in caches]
    rows: dict[str, dict[str, Any]] = {folder.path: {} for folder in folders}
    _remove(place, rows, yes=yes, dry_run=dry_run, json=json)


@app.command("prune")
def prune_command(
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help="Last used, or where never used last written, so long ago: 90d, 12w, 36h.",
        ),
    ] = None,
    unused: Annotated[bool, typer.Option("--unused", help="Only caches that no result names.")] = False,
    filters: Filter = None,
    used_by: UsedBy = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Remove caches that nobody has used for long.

    Features alone, unless a --filter kind=images or kind=targets says more: these serve many features.
    """
    from deapcache.cache import list_caches

    if older_than is None and not unused:
        raise UsageError("prune needs --older-than AGE (90d), --unused, or both: it says which caches may go")
    place = options.own_home(home)
    limit = datetime.now(UTC) - parse_age(older_than) if older_than else None
    uses = _uses(place, used_by)
    if uses.unreadable:
        raise ResultsError(
            f"{len(uses.unreadable)} result files cannot be read, and the caches that they name may be in use: delete "
            "these files or move them away, then prune again; nothing was removed"
        )
    kind = None if any(text.startswith("kind=") for text in filters or []) else "features"
    entries = [entry for entry in list_caches(place, kind) if _lies_in_home(entry)]
    old = {}
    for row, wanted in _rows(entries, uses, filters or []):
        if "error" in row:
            note(f"{row['path']} stays, for it cannot be opened: {row['error']}")
        elif wanted and _is_old(row, limit, unused):
            old[row["path"]] = row
    _remove(place, old, yes=yes, dry_run=dry_run, json=json, skip_busy=True)


def parse_age(text: str) -> timedelta:
    """``36h``, ``90d`` or ``12w``; raises :class:`UsageError` for anything else."""
    found = re.fullmatch(r"(\d+)([hdw])", text)
    if not found:
        raise UsageError(f"--older-than {text!r}: expected hours, days or weeks such as 36h, 90d or 12w")
    try:
        return timedelta(**{_AGE_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        raise UsageError(f"--older-than {text!r} is longer ago than there are dates") from None


def _lies_in_home(entry: CacheEntry) -> bool:
    """Whether a cache lies in the home, or there is a link to it alone, which can be removed."""
    from deapcache.cache import link_target

    real = link_target(entry.location)
    is_link = isinstance(entry.location, LocalLocation) and entry.location.path.is_symlink()
    if real and not is_link:
        note(f"{entry.path} stays, for links lead out of the home to {real}")
        return False
    return True


def _is_old(row: dict[str, Any], limit: datetime | None, unused: bool) -> bool:
    if unused and row["last_use"]:
        return False
    if limit is None:
        return True
    last = row["last_use"] or row["when"]
    if last is None:
        note(f"{row['path']} stays, for nothing says how old it is")
        return False
    moment = datetime.fromisoformat(last)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) < limit


def _remove(
    place: Location, rows: dict[str, dict[str, Any]], *, yes: bool, dry_run: bool, json: bool, skip_busy: bool = False
) -> None:
    """Remove the caches at the paths that ``rows`` has, once the user agrees.

    ``rows`` says of each cache what a table shows, as far as it is known. With ``skip_busy``, caches that a run is at
    work on are left with a note.
    """
    from deapcache.cache import remove_cache

    if not json:
        _show_rows_to_remove(rows)
    removed = {}
    if rows and not dry_run:
        place.require_writable()
        if not yes and not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask at: give --yes to remove these caches, or --dry-run to look")
        if not yes:
            err.print(f"remove {len(rows)} caches? [y/N] ", end="", markup=False)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                raise typer.Exit(1)
        for path in rows:
            try:
                removed[path] = remove_cache(place / path)
            except CacheInUseError as error:
                if not skip_busy:
                    raise
                note(f"{path} stays: {error}")
    if json:
        facts = [{"path": path, **vars(one)} for path, one in removed.items()]
        print_json({"would_remove": list(rows) if dry_run else [], "removed": facts})
        return
    for one in removed.values():
        out.print(f"removed {one.location}: {one.files} files, {size(one.bytes)}", markup=False)


def _show_rows_to_remove(rows: dict[str, dict[str, Any]]) -> None:
    if not rows:
        out.print("nothing to remove")
        return
    listed = table("cache", "size", "written", "last use", right=("size",))
    for path, row in rows.items():
        facts = (size(row["bytes"]), _moment_text(row["when"]), _moment_text(row["last_use"])) if row else ("", "", "")
        listed.add_row(path, *facts)
    out.print(listed)


# --- serve, index -----------------------------------------------------------------------------------------------------


@app.command("serve")
def serve_command(
    home: options.Home = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on: 127.0.0.1 is this machine only, 0.0.0.0 everyone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes a free one.")] = 8712,
) -> None:
    """Serve a home's caches over HTTP, read only: byte ranges for probes, a page for people. Ctrl-C ends it.

    Nothing but features, images, targets and their lists is served; no results, no readouts. Nothing is written.
    """
    from deapcache.cache.serve import HomeServer

    with HomeServer(options.own_home(home), host, port) as server:
        out.print(f"serving {server.home} at {server.url}/ (Ctrl-C ends it)", markup=False)
        out.file.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            note("stopped")


@app.command("index")
def index_command(home: options.Home = None) -> None:
    """Write what plain web servers cannot list anew: manifest.json of every cache, index.json of the home.

    Extraction keeps both true by itself. This is for homes that were copied with other tools, or written before.
    """
    from deapcache.cache import rebuild

    place = options.own_home(home)
    entries = rebuild(place)
    images = sum(entry.images for entry in entries)
    out.print(f"{place}/{locations.INDEX}: {len(entries)} caches, {images:,} images", markup=False)


# --- one row a cache --------------------------------------------------------------------------------------------------


def _rows(entries: Sequence[CacheEntry], uses: Uses, filters: Sequence[str]) -> list[tuple[dict[str, Any], bool]]:
    """A row for each cache that is still there, and whether every filter fits it."""
    from deapcache.cache import match_filters

    found = [(entry, _summary(entry, uses.last.get(entry.digest))) for entry in entries]
    rows = [row for _, row in found if row]
    facts = [{**entry.fields, **row} for entry, row in found if row]
    return list(zip(rows, match_filters(facts, filters), strict=True))


def _summary(entry: CacheEntry, last_use: datetime | None) -> dict[str, Any] | None:
    """One cache in JSON: what, how much of it, who made it and when, and when it was last used.

    None where it was removed since it was listed.
    """
    from deapcache.cache import last_written

    known = {"path": entry.path, "kind": entry.kind, "dataset": entry.dataset, "split": entry.split, "name": entry.name}
    known |= {"home": str(entry.home), "view": entry.fields.get("view", ""), "digest": entry.digest}
    try:
        cache = entry.open()
        present = cache.present_shards()
        stored = cache.stored_bytes()
    except DeapcacheError as error:
        if isinstance(error, LocationError) and not isinstance(error, UnreadableError):
            raise
        return {**known, "error": str(error)} if entry.location.exists("zarr.json") else None
    written = last_written(entry.location)
    return {
        **known,
        "images": len(cache),
        "present": sum(len(cache.shard_rows(k)) for k in present),
        "complete": len(present) == cache.shard_count,
        "bytes": stored,
        "who": _who(cache),
        "when": written.isoformat(timespec="seconds") if written else None,
        "last_use": last_use.isoformat(timespec="seconds") if last_use else None,
    }


def _who(cache: Cache) -> str:
    """Those who wrote it, as user@host; empty where nothing says so."""
    facts: list[dict[str, Any]] = []
    try:
        facts = cache.provenance()
    except CorruptCacheError:  # verify says so, and repair clears it away
        pass
    except UnreadableError as error:
        note(f"who wrote {cache.location} is not known: {error}")
    names = {f"{one['user']}@{one['host']}" for one in facts if {"user", "host"} <= one.keys()}
    return ", ".join(sorted(names))


def _uses(home: Location, others: Sequence[str] | None) -> Uses:
    """When caches were last used, by the results in ``home`` and in ``others``; says what could not be read.

    Raises :class:`UsageError` for one of ``others`` that has no results: mistyped, not mounted, or a web server.
    """
    from deapcache.results.last_used import last_uses

    places = list(home.layers)
    for text in others or ():
        place = locations.locate(text)
        if isinstance(place, locations.WebLocation):
            raise UsageError(f"--used-by {redacted(text)}: a web server lists no results; give a path, s3:// or gs://")
        if not place.keys("results"):
            raise UsageError(
                f"--used-by {redacted(text)}: there are no results in {place}/results. Is it mistyped, or not mounted? "
                "Leave it out if nothing was ever measured there"
            )
        places.append(place)
    found = last_uses([place for place in places if not isinstance(place, locations.WebLocation)])  # lists no results
    for file in found.unreadable:
        note(f"{file} is not a result, so that it cannot be told which caches it used")
    return found


def _moment_text(text: str | None) -> str:
    """A time in JSON as a table shows it: to the minute, in UTC."""
    return text[:16].replace("T", " ") if text else "–"
