"""``deapcache cache``: looking at the caches of a home, looking after them, copying and serving them."""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.cache_copies import mirror_command, pull_command, push_command
from deapcache.cli.cache_removal import journal_command, pin_command, prune_command, rm_command, unpin_command
from deapcache.cli.cache_rows import (
    GROUPS,
    Filter,
    UsedBy,
    add_up,
    cache_row,
    cache_rows,
    consult,
    index_rows,
    moment_text,
    parse_age,
    row_table,
)
from deapcache.cli.console import (
    FAILURE,
    Bars,
    bars,
    completed,
    duration,
    facts_table,
    note,
    out,
    print_json,
    show,
    size,
    table,
)
from deapcache.cli.extract import progress_on
from deapcache.cli.options import App
from deapcache.errors import CacheMissError, DeapcacheError, UsageError, require_choice

if TYPE_CHECKING:
    from deapcache.cache import CacheEntry, CacheFolder, VerifyReport, VerifyScope
    from deapcache.extraction import RepairReport

_NAMED_IMAGES = 20
"""Image ids that are spelled out of each damaged file; --json has all."""
_PICTURED_IMAGES = 8
"""Images of a picture, spread over the cache."""

One = Annotated[str, typer.Argument(help="Part of the cache's path, or first characters of its digest.")]
app = App(help="Look at the caches of a home, and look after them.", no_args_is_help=True)


# --- ls, info, diff ---------------------------------------------------------------------------------------------------


@app.command("ls")
def list_command(
    home: options.Home = None,
    read_home: options.ReadHomes = None,
    filters: Filter = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="FIELD", help=f"Add up caches, images and bytes by {', '.join(GROUPS)}."),
    ] = None,
    used_by: UsedBy = None,
    json: options.Json = False,
) -> None:
    """Caches of a home: what, images, bytes, whether complete, who made them and when, when a probe last used them."""
    from deapcache.cache import list_caches

    place = options.place(home, read_home)
    if by is not None:
        require_choice("--by", by, GROUPS)
    rows = index_rows(place, filters or []) if by and by != "user" and not used_by else None
    if rows is None:
        uses = None if by else consult(place, used_by)
        rows = [row for _, row in cache_rows(list_caches(place), uses, filters or [])]
    if by:
        sums = {"caches": "caches", "images": "images"}
        columns = {by: lambda group: str(group[by])} | {n: lambda group, n=n: f"{group[n]:,}" for n in sums}
        groups = [{by: group.pop(GROUPS[by]), **group} for group in add_up(rows, GROUPS[by])]
        total = {by: "all", **{name: sum(group[name] for group in groups) for name in (*sums, "bytes")}}
        columns["size"] = lambda group: size(group["bytes"])
        show([*groups, *([] if json else [total])], json, columns, right=("caches", "images", "size"))
    elif json:
        print_json(rows)
    elif rows:
        out.print(row_table(rows, several_homes=len(place.layers) > 1))
    elif filters:
        out.print(f"no cache in {place} fits {' and '.join(filters)}")
    else:
        hint = f"no caches in {place}: make one with deapcache extract --backbone NAME --dataset NAME"
        out.print(completed(hint))


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
    last_uses = consult(place, used_by).last
    rows = [
        {**(cache_row(entry, last_uses.get(entry.digest)) or {}), **_details(entry, statistics)} for entry in entries
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
    listed = facts_table()
    listed.add_row(
        "images", f"{row['present']:,} of {row['images']:,} in {row['shards']} shards of {row['shard_images']}"
    )
    listed.add_row("size", size(row["bytes"]))
    listed.add_row("last written", moment_text(row["when"]))
    listed.add_row("last used by a probe", moment_text(row["last_use"]))
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
    from deapcache.cache import as_text, require_one, select_caches
    from deapcache.recipe import differences

    place = locations.home(home)
    fitting = select_caches(place, [one, other])
    left, right = (require_one(place, text, fitting) for text in (one, other))
    if left.kind != right.kind:
        raise UsageError(f"{left.path} holds {left.kind} and {right.path} {right.kind}: give two caches of one kind")
    found = differences(left.fields, right.fields)
    if json:
        fields = {each.field: {"a": each.left, "b": each.right} for each in found}
        print_json({"a": left.path, "b": right.path, "differences": fields})
        return
    if not found:
        out.print(f"the same recipe, {left.digest[:12]}: {left.location} and {right.location}")
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


@dataclass(frozen=True)
class _Scope:
    """How much of the caches is read, by what the home remembers."""

    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Only what was not found sound within that time: 30d."),
    ] = None
    max_time: Annotated[
        str | None,
        typer.Option("--max-time", metavar="TIME", help="Stop after so long, the longest unread first: 90m, 6h."),
    ] = None
    sample: Annotated[
        float | None, typer.Option("--sample", metavar="PERCENT", help="Only so many of the shards, drawn anew.")
    ] = None
    summary: Annotated[
        bool, typer.Option("--summary", help="Print what is damaged and the sums, nothing of what is sound.")
    ] = False

    def scope(self) -> VerifyScope:
        """The same as the library takes it; raises :class:`UsageError` for values that it does not know."""
        from deapcache.cache import VerifyScope

        if self.sample is not None and not 0 < self.sample <= 100:
            raise UsageError(f"--sample {self.sample:g}: expected a percentage above 0, at most 100")
        since, deadline = math.inf, math.inf
        if self.older_than:
            since = time.time() - parse_age(self.older_than).total_seconds()
        if self.max_time:
            deadline = time.monotonic() + parse_age(self.max_time, "--max-time").total_seconds()
        return VerifyScope(since=since, deadline=deadline, share=(self.sample or 100) / 100)


@app.command("verify")
def verify_command(
    *,
    caches: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CACHE]...", help="Parts of paths, or first characters of digests. Default: all."),
    ] = None,
    recompute: _Recompute,
    how_much: _Scope,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Files read at once. Default: two a core, 4 from a server.")
    ] = None,
    home: options.Home = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> int:
    """Read every byte of caches and compare every checksum; exit code 1 where something is damaged.

    Shards that were not extracted yet are no damage. The home remembers what was found sound, and when.
    """
    from deapcache.cache import select_folders
    from deapcache.cache.verify import last_verified

    if (recompute.live is not None and recompute.live < 1) or (threads is not None and threads < 1):
        raise UsageError("--live and --threads take a number of at least 1")
    scope = how_much.scope()
    folders = select_folders(options.own_home(home), caches or [])
    if how_much.max_time:  # the longest unread first
        folders.sort(key=lambda folder: last_verified(folder.home, folder.digest))
    documents, bad = [], 0
    with bars() as shown:
        for folder in folders:
            document, lines = _verify(folder, scope, threads, shown)
            is_of_features = folder.entry is not None and folder.entry.kind == "features"
            if recompute.live and is_of_features and "error" not in document:
                document["live"], more = _recompute(folder, document, recompute, recompute.live, shown)
                lines += more
            recomputed = document.get("live", {})
            documents.append(document)
            is_bad = not document["sound"] or bool(recomputed.get("bad")) or "error" in recomputed
            bad += is_bad
            if not json and (is_bad or not how_much.summary):
                for line in lines:
                    out.print(line)
    if json:
        print_json(documents)
    else:
        out.print(f"{len(folders)} caches, {bad} of them damaged" if folders else "no caches")
        if how_much != _Scope():
            out.print(_sums(documents))
    return FAILURE if bad else 0


def _sums(documents: list[dict[str, Any]]) -> str:
    """Of all caches together: what was read now, what was before, and what is left for another time."""
    files, read, remembered, left = (
        sum(one.get(name, 0) for one in documents) for name in ("files", "bytes", "remembered", "left")
    )
    return f"{files:,} files read ({size(read)}), {remembered:,} found sound before, {left:,} left for another time"


def _verify(
    folder: CacheFolder, scope: VerifyScope, threads: int | None, shown: Bars
) -> tuple[dict[str, Any], list[str]]:
    from deapcache.cache import verify_cache

    if not folder.has_root:
        text = f"{folder.path}: no cache: its root zarr.json is missing, as a removal or a creation that was cut off"
        text += f" leaves it. Extract again to make it whole, or {_command('rm', folder)}"
        return {"path": folder.path, "sound": True, "error": text}, [text]
    try:
        report = verify_cache(folder.location, scope=scope, threads=threads, progress=progress_on(shown))
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
    batch_size: options.BatchSize = None,
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
        out.print(f"{folder.path}: {line}")


# --- copying, removing, serving ---------------------------------------------------------------------------------------

app.command("push")(push_command)
app.command("pull")(pull_command)
app.command("mirror")(mirror_command)
app.command("rm")(rm_command)
app.command("prune")(prune_command)
app.command("pin")(pin_command)
app.command("unpin")(unpin_command)
app.command("journal")(journal_command)


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
        out.print(f"serving {server.home} at {server.url}/ (Ctrl-C ends it)")
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
    out.print(f"{place}/{locations.INDEX}: {len(entries)} caches, {images:,} images")
