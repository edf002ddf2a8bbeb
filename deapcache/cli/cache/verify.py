"""``deapcache cache verify``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deapcache.cli import options
from deapcache.cli.cache.rows import follow
from deapcache.cli.console import Bars, bars, duration, out, print_json, size
from deapcache.cli.extract import progress_on
from deapcache.errors import CacheMissError, DeapcacheError, UsageError

if TYPE_CHECKING:
    from deapcache.cache import BadShard, CacheFolder, VerifyReport
    from deapcache.extraction import RecomputeReport

BAD = 1
_SHOWN = 20
"""Image ids that are spelled out of each damaged file; --json has all."""


def verify_command(
    caches: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CACHE]...", help="Parts of paths, or first characters of digests. Default: all."),
    ] = None,
    live: Annotated[
        int | None,
        typer.Option("--live", metavar="N", help="Also run the backbone on N random images and compare."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which images --live draws.")] = 0,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="With --live: the checkpoint that the extraction was given.")
    ] = None,
    device: options.Device = "auto",
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

    if (live is not None and live < 1) or (threads is not None and threads < 1):
        raise UsageError("--live and --threads take a number of at least 1")
    found = select_folders(options.own_home(home), caches or [])
    documents, bad = [], 0
    with bars() as shown:
        for folder in found:
            document, lines = _verify(folder, threads, shown)
            if live is not None and folder.entry and folder.entry.kind == "features" and "error" not in document:
                document["live"], more = _live(folder, document, live, seed, weights, device, shown)
                lines += more
            documents.append(document)
            bad += _is_bad(document)
            if not json:
                for line in lines:
                    out.print(line, markup=False)
    if json:
        print_json(documents)
    else:
        out.print(f"{len(found)} caches, {bad} of them damaged" if found else "no caches", markup=False)
    return BAD if bad else 0


def _is_bad(document: dict[str, Any]) -> bool:
    live = document.get("live", {})
    return not document["sound"] or bool(live.get("bad")) or "error" in live


def _verify(folder: CacheFolder, threads: int | None, shown: Bars) -> tuple[dict[str, Any], list[str]]:
    from deapcache.cache import verify_cache

    if not folder.has_root:
        text = f"{folder.path}: no cache: its root zarr.json is missing, as a removal or a creation that was cut off"
        text += f" leaves it. Extract again to make it whole, or {_command('rm', folder)}"
        return {"path": folder.path, "sound": True, "error": text}, [text]
    try:
        report = verify_cache(folder.location, threads=threads, progress=follow(shown, folder.path))
    except CacheMissError:
        text = f"{folder.path}: it was removed since it was listed"
        return {"path": folder.path, "sound": True, "error": text}, [text]
    return {"path": folder.path, **report.to_json()}, _told(folder, report)


def _told(folder: CacheFolder, report: VerifyReport) -> list[str]:
    rate = f"{report.bytes / max(report.seconds, 1e-9) / 1e6:.0f} MB/s"
    read = f"{report.files} files, {size(report.bytes)} in {duration(report.seconds)} ({rate})"
    missing = f"; {len(report.missing)} of {report.shards} shards are not there yet" if report.missing else ""
    if report.is_sound:
        return [f"{folder.path}: sound: {read}{missing}"]
    lines = [f"{folder.path}: DAMAGED: {read}{missing}"]
    lines += [f"  {report.location}/{key}: {problem}" for key, problem in report.problems.items()]
    lines += [_bad_shard(report, one) for one in report.bad]
    return [*lines, f"  repair it with: {_command('repair', folder)}"]


def _bad_shard(report: VerifyReport, bad: BadShard) -> str:
    ids = bad.image_ids or tuple(f"row {row}" for row in bad.rows)
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    named = ", ".join(ids[:_SHOWN]) + more
    return f"  {report.location}/{bad.key}: {bad.reason}; images {named}"


def _live(
    folder: CacheFolder,
    document: dict[str, Any],
    images: int,
    seed: int,
    weights: Path | None,
    device: str,
    shown: Bars,
) -> tuple[dict[str, Any], list[str]]:
    from deapcache.cache import FeatureCache, open_cache
    from deapcache.extraction import recompute_check

    try:
        cache = open_cache(folder.location)
        assert isinstance(cache, FeatureCache)
        without = {bad["shard"] for bad in document["bad"]}
        report = recompute_check(
            cache,
            folder.home,
            images=images,
            seed=seed,
            without=without,
            weights=weights,
            device=device,
            progress=progress_on(shown),
        )
    except DeapcacheError as error:
        return {"error": str(error)}, [f"  live: cannot be compared: {error}"]
    return report.to_json(), _told_live(report)


def _told_live(report: RecomputeReport) -> list[str]:
    cosines = f"cosine min {report.minimum:.6f}, median {report.median:.6f}, at least {report.least:g} is expected"
    lines = [f"  live: {len(report.images)} images forwarded again on {report.device}: {cosines}"]
    return lines + [f"  live: BAD: image {one.image_id} (row {one.row}): cosine {one.cosine:.6f}" for one in report.bad]


def _command(verb: str, folder: CacheFolder) -> str:
    return shlex.join(["deapcache", "cache", verb, folder.path, "--home", str(folder.home)])
