"""``deapcache doctor --dataset NAME``: whether a dataset's files are all there and can be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deapcache.cli.console import Bars, bars, note, out, print_json, table
from deapcache.errors import DataError, MissingDataError

if TYPE_CHECKING:
    from deapcache.datasets import DatasetEntry
    from deapcache.datasets.checking import CheckProgress, SplitCheck

SHOWN = 10
"""Problems that are printed; ``--json`` has all."""

FINE, PROBLEMS, INTERRUPTED = 0, 1, 130
"""Exit codes."""


@dataclass(kw_only=True)
class _Report:
    """What was found of one dataset."""

    entry: DatasetEntry
    root: Path
    full: bool
    unopened: str = ""
    """Why the dataset could not be opened at all."""
    checks: list[SplitCheck] = field(default_factory=list)
    interrupted: bool = False

    @property
    def problems(self) -> list[tuple[str, str]]:
        """(split, line), the split empty where it concerns all of them."""
        of_all = [("", self.unopened)] if self.unopened else []
        return of_all + [(check.split, problem) for check in self.checks for problem in check.problems]


def check_dataset(name: str, root: Path, *, full: bool, json: bool) -> int:
    """Check all splits of a dataset, print what was found, and give the exit code."""
    from deapcache.datasets import dataset_entry

    report = _Report(entry=dataset_entry(name), root=root, full=full)
    with bars() as shown:
        try:
            _check(report, name, shown)
        except KeyboardInterrupt:
            report.interrupted = True
    if json:
        print_json(_document(report))
    else:
        _show(report)
    if report.interrupted:
        note(_where_it_stopped(report))
        return INTERRUPTED
    return PROBLEMS if report.problems else FINE


def _check(report: _Report, name: str, shown: Bars) -> None:
    from deapcache.datasets import open_dataset
    from deapcache.datasets.checking import SplitCheck, check_split, one_line

    try:
        dataset = open_dataset(name, report.root)
    except (MissingDataError, DataError) as error:
        report.unopened = one_line(error)
        return
    for split in dataset.splits:
        check = SplitCheck(split=split)
        report.checks.append(check)
        check_split(dataset, check, full=report.full, progress=_progress(shown, f"{name}/{split}"))


def _progress(shown: Bars, place: str) -> CheckProgress:
    stages = {"files": f"{place}: look for files", "images": f"{place}: open"}

    def show(unit: str, done: int, total: int) -> None:
        shown.show(stages[unit], done, total, unit)

    return show


def _show(report: _Report) -> None:
    out.print(report.entry.name, style="bold", end="  ")
    out.print(report.entry.summary)
    out.print(f"expected under {report.root}:", markup=False)
    for line in report.entry.layout.splitlines():
        out.print(f"  {line}", markup=False)
    if report.checks:
        out.print(_table(report))
    for check in report.checks:
        if said := _beside_official(check, report.entry.official.get(check.split)):
            out.print(said, markup=False)
    problems = report.problems
    if problems:
        more = f"; the first {SHOWN}, and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        out.print(f"{len(problems):,} problem{'s' * (len(problems) > 1)}{more}:", markup=False)
        for split, problem in problems[:SHOWN]:
            out.print(f"  {split}: {problem}" if split else f"  {problem}", markup=False)
    elif not report.interrupted:
        out.print(_all_is_well(report), markup=False)


def _table(report: _Report) -> Any:
    right = ("images", "official", "files", "opened", "problems")
    shown = table("split", *right, "first image in", right=right)
    for check in report.checks:
        official = report.entry.official.get(check.split)
        shown.add_row(
            check.split,
            f"{check.images:,}",
            f"{official:,}" if official else "–",
            f"{check.files:,}" if check.files else "–",
            f"{check.opened:,}",
            f"{len(check.problems):,}",
            str(check.folder or "–"),
        )
    return shown


def _beside_official(check: SplitCheck, official: int | None) -> str:
    if not official or not check.images or check.images == official:
        return ""
    if check.images > official:
        return f"{check.split}: {check.images - official:,} images more than the official split has"
    return (
        f"{check.split}: {official - check.images:,} of the official {official:,} images are not listed: a part of the "
        "split, or an archive that is not unpacked whole"
    )


def _all_is_well(report: _Report) -> str:
    images, opened = sum(c.images for c in report.checks), sum(c.opened for c in report.checks)
    if opened == images:
        return f"no problem: all {images:,} images and their annotations were opened"
    files = ", their files are there and none is empty" if any(check.files for check in report.checks) else ""
    return (
        f"no problem: {images:,} images are listed{files}; {opened:,} of them, spread over each split, were opened "
        "with their annotations (--full opens all)"
    )


def _where_it_stopped(report: _Report) -> str:
    if not report.checks:
        return "interrupted before anything was checked"
    check = report.checks[-1]
    how_far = f"{check.opened:,} of {check.to_open:,} images of {check.split} were opened"
    return f"interrupted: {how_far}; what was found until then is above, the same command begins anew"


def _document(report: _Report) -> dict[str, Any]:
    return {
        "dataset": report.entry.name,
        "data_root": str(report.root),
        "expected": report.entry.layout,
        "full": report.full,
        "interrupted": report.interrupted,
        "splits": {
            check.split: {
                "images": check.images,
                "official": report.entry.official.get(check.split),
                "files": check.files,
                "opened": check.opened,
                "problems": len(check.problems),
                "folder": str(check.folder) if check.folder else None,
            }
            for check in report.checks
        },
        "problems": [{"split": split or None, "problem": problem} for split, problem in report.problems],
    }
