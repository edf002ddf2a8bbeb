"""``deapcache doctor``: what this machine, home and data look like to deapcache, or the files of one dataset."""

from __future__ import annotations

import os
import platform
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import FAILURE, INTERRUPTED, Bars, bars, facts_table, note, out, print_json, size, table
from deapcache.cli.listing import images_found
from deapcache.errors import DataError, DeapcacheError, MissingDataError, UsageError
from deapcache.locations import Location
from deapcache.machine import cpu_count, versions

if TYPE_CHECKING:
    from deapcache.datasets import Dataset
    from deapcache.datasets.checking import SplitCheck

_PACKAGES = ("deapcache", "torch", "timm", "open_clip_torch", "zarr", "numcodecs", "obstore", "dask")
_ABSENT = "not installed"
_PROBE_BYTES = 64 * 1024 * 1024

SHOWN = 10
"""Problems that are printed; ``--json`` has all."""


def doctor_command(
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Check the files of this dataset instead; exit code 1 where one is not fine."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="With --dataset: open every image and annotation, not 20 images a split.")
    ] = False,
    home: options.Home = None,
    plugin: options.Plugin = None,
    data_root: options.DataRoot = None,
    json: options.Json = False,
) -> int:
    """Check device, versions, cache home (free space, measured bandwidth), datasets and weights, or one dataset."""
    root = locations.data_root(data_root)
    if dataset is not None:
        return _check_dataset(dataset, root, full=full, json=json)
    if full:
        raise UsageError("--full opens every file of one dataset: say which with --dataset")
    from deapcache.backbones import BACKBONES, weights_status
    from deapcache.datasets import DATASETS, dataset_status

    place = locations.home(home)
    report = {
        "device": _devices(),
        "versions": {"python": platform.python_version(), **dict.fromkeys(_PACKAGES, _ABSENT), **versions(*_PACKAGES)},
        "home": _home(place),
        "data_root": str(root),
        "datasets": {
            name: "; ".join(
                f"{split}: {what}" for split, what in images_found(entry, dataset_status(entry, root)).items()
            )
            for name, entry in DATASETS
        },
        "weights": {name: weights_status(name) for name, entry in BACKBONES if not entry.group},
    }
    if json:
        print_json(report)
        return 0
    listing = facts_table()
    for topic, facts in report.items():
        for name, value in facts.items() if isinstance(facts, dict) else [("", facts)]:
            listing.add_row(f"{topic} {name}".strip(), str(value))
    out.print(listing)
    return 0


def _devices() -> dict[str, str]:
    import torch

    mine, all_of_them = cpu_count(), os.cpu_count()
    cores = f"{mine} of {all_of_them}" if mine != all_of_them else f"{mine}"
    found = {"cpu": f"{cores} cores, torch uses {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {size(properties.total_memory)}"
    return found


def _home(place: Location) -> dict[str, str]:
    facts = {"": str(place)}
    if others := place.layers[1:]:
        facts["read too"] = ", ".join(map(str, others))
    if agreed := str(locations.home_defaults(place)):
        facts["defaults"] = agreed
    free = place.free_bytes()
    if free is not None:
        facts["free"] = size(free)
    try:
        facts.update(_bandwidth(place))
    except DeapcacheError as error:
        facts["writable"] = f"no: {error}"
    return facts


def _bandwidth(place: Location) -> dict[str, str]:
    """Write, synchronise and read back 64 MB that do not compress; the read may come from the page cache."""
    key, data = f"doctor-{uuid.uuid4().hex}", os.urandom(_PROBE_BYTES)
    start = time.perf_counter()
    place.publish(key, data)
    written = time.perf_counter()
    try:
        place.read(key)
        done = time.perf_counter()
    finally:
        place.delete(key)
    return {
        "writes": f"{size(len(data) / (written - start))}/s",
        "reads": f"{size(len(data) / (done - written))}/s (just written: may come from memory)",
    }


def _check_dataset(name: str, root: Path, *, full: bool, json: bool) -> int:
    """Check all splits of a dataset, print what was found, and give the exit code."""
    from deapcache.datasets import dataset_entry

    entry = dataset_entry(name)
    checks: list[SplitCheck] = []
    problems: list[tuple[str, str]] = []  # split and line, the split empty where it concerns all of them
    interrupted = False
    with bars() as display:
        try:
            if unopened := _check(name, root, checks, full, display):
                problems.append(("", unopened))
        except KeyboardInterrupt:
            interrupted = True
    problems += [(check.split, problem) for check in checks for problem in check.problems]
    if json:
        print_json(
            {
                "dataset": entry.name,
                "data_root": str(root),
                "expected": entry.layout,
                "full": full,
                "interrupted": interrupted,
                "splits": {
                    check.split: {
                        "images": check.images,
                        "official": entry.official.get(check.split),
                        "files": check.files,
                        "opened": check.opened,
                        "problems": len(check.problems),
                        "folder": str(check.folder) if check.folder else None,
                    }
                    for check in checks
                },
                "problems": [{"split": split or None, "problem": problem} for split, problem in problems],
            }
        )
    else:
        _show(entry, root, checks, problems)
        if not (problems or interrupted):
            out.print(_all_is_well(checks))
    if interrupted:
        note(_where_it_stopped(checks))
        raise SystemExit(INTERRUPTED)  # to return it would say, too, that what is published stays
    return FAILURE if problems else 0


def _check(name: str, root: Path, checks: list[SplitCheck], full: bool, display: Bars) -> str:
    """Check each split, and add that to ``checks`` as it begins; gives why the dataset cannot be opened, or nothing."""
    from deapcache.datasets import open_dataset
    from deapcache.datasets.checking import SplitCheck, check_split, one_line

    try:
        dataset = open_dataset(name, root)
    except (MissingDataError, DataError) as error:
        return one_line(error)
    for split in dataset.splits:
        check = SplitCheck(split=split)
        checks.append(check)
        stages = {"files": f"{name}/{split}: look for files", "images": f"{name}/{split}: open"}

        def show(unit: str, done: int, total: int, stages: dict[str, str] = stages) -> None:
            display.show(stages[unit], done, total, unit)

        check_split(dataset, check, full=full, progress=show)
    return ""


def _show(entry: type[Dataset], root: Path, checks: list[SplitCheck], problems: list[tuple[str, str]]) -> None:
    out.print(entry.name, style="bold", end="  ")
    out.print(entry.summary)
    out.print(f"expected under {root}:")
    for line in entry.layout.splitlines():
        out.print(f"  {line}")
    if checks:
        right = ("images", "official", "files", "opened", "problems")
        listing = table("split", *right, "first image in", right=right)
        for check in checks:
            official = entry.official.get(check.split)
            listing.add_row(
                check.split,
                f"{check.images:,}",
                f"{official:,}" if official else "–",
                f"{check.files:,}" if check.files else "–",
                f"{check.opened:,}",
                f"{len(check.problems):,}",
                str(check.folder or "–"),
            )
        out.print(listing)
    for check in checks:
        if sentence := _beside_official(check, entry.official.get(check.split)):
            out.print(sentence)
    if problems:
        more = f"; the first {SHOWN}, and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        out.print(f"{len(problems):,} problem{'s' * (len(problems) > 1)}{more}:")
        for split, problem in problems[:SHOWN]:
            out.print(f"  {split}: {problem}" if split else f"  {problem}")


def _beside_official(check: SplitCheck, official: int | None) -> str:
    if not official or not check.images or check.images == official:
        return ""
    if check.images > official:
        return f"{check.split}: {check.images - official:,} images more than the official split has"
    return (
        f"{check.split}: {official - check.images:,} of the official {official:,} images are not listed: a part of the "
        "split, or an archive that is not unpacked whole"
    )


def _all_is_well(checks: list[SplitCheck]) -> str:
    images, opened = sum(c.images for c in checks), sum(c.opened for c in checks)
    if opened == images:
        return f"no problem: all {images:,} images and their annotations were opened"
    files = ", their files are there and none is empty" if any(check.files for check in checks) else ""
    return (
        f"no problem: {images:,} images are listed{files}; {opened:,} of them, spread over each split, were opened "
        "with their annotations (--full opens all)"
    )


def _where_it_stopped(checks: list[SplitCheck]) -> str:
    if not checks:
        return "interrupted before anything was checked"
    check = checks[-1]
    how_far = f"{check.opened:,} of {check.to_open:,} images of {check.split} were opened"
    return f"interrupted: {how_far}; what was found until then is above, the same command begins anew"
