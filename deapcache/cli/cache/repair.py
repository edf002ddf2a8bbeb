"""``deapcache cache repair``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache.cli import options
from deapcache.cli.cache.rows import One, follow
from deapcache.cli.console import bars, out, print_json
from deapcache.cli.extract import progress_on

if TYPE_CHECKING:
    from deapcache.cache import CacheFolder
    from deapcache.extraction import RepairReport

NOT_WHOLE = 1


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
            checking = follow(shown, f"verify {folder.path}")
            report = repair_cache(folder, settings, checking=checking, progress=progress_on(shown))
            reports.append(report)
            if not json:
                _show(folder, report)
    if json:
        print_json([{"path": f.path, **r.to_json()} for f, r in zip(folders, reports, strict=True)])
    return 0 if all(report.is_whole for report in reports) else NOT_WHOLE


def _show(folder: CacheFolder, report: RepairReport) -> None:
    lines = [f"moved aside, to {key}.damaged: {folder.location}/{key}" for key in report.set_aside]
    if report.removed:
        lines.append(f"deleted the damaged shards {_numbers(report.removed)}")
    if report.remade:
        lines.append(f"made the shards {_numbers(report.remade)}")
    if report.problem:
        lines.append(f"cannot make anew what is missing: {report.problem}")
        lines.append(f"run: {report.command}")
    for line in lines or ["nothing to repair"]:
        out.print(f"{folder.path}: {line}", markup=False)


def _numbers(shards: tuple[int, ...]) -> str:
    return ", ".join(map(str, shards))
