"""``deapcache import``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache.cli import options
from deapcache.cli.console import bars, facts_table, out, print_json
from deapcache.errors import UsageError

if TYPE_CHECKING:
    from deapcache.datasets.importing import ImportReport

SHOWN = 5
"""Notes and reasons to leave out that are printed; ``--json`` and the record beside the images have all."""


def import_command(
    *,
    source: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder with images and labels. It is not changed.", show_default=False),
    ],
    folder: Annotated[
        Path, typer.Option("--out", help="New folder, made here; its name is that of the dataset: folder:NAME.")
    ],
    format: Annotated[
        str, typer.Option("--from", help="coco, yolo, labelme, cvat, voc, masks, photos; auto: what is found.")
    ] = "auto",
    val: Annotated[
        float, typer.Option("--val", help="Share of the images for scoring, where nothing says which those are.")
    ] = 0.2,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of these images.")] = 0,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images. Default: symbolic links to them.")] = False,
    classes: Annotated[
        str, typer.Option("--classes", help="category, or supercategory: COCO's groups of categories.")
    ] = "category",
    palette: Annotated[
        Path | None,
        typer.Option("--palette", help="Colours of masks and their classes. Default: labelmap.txt and others in DIR."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Make a dataset of your images and labels, as other tools export them: COCO, YOLO, LabelMe, CVAT, VOC, masks.

    Says what was found, what was not understood and what is left out.
    """
    from deapcache.datasets.importing import import_labels

    if folder.name in ("", ".."):
        raise UsageError(f"--out {folder}: expected a folder with a name, which the dataset then has")
    with bars() as display:
        report = import_labels(
            source,
            folder,
            format=format,
            classes=classes,
            palette=palette,
            val=val,
            seed=seed,
            copy=copy,
            progress=lambda done, total: display.show("import", done, total, "images"),
        )
    if json:
        print_json(vars(report))
    else:
        _show(report, folder)


def _show(report: ImportReport, folder: Path) -> None:
    images = ", ".join(f"{split} {count:,}" for split, count in report.images.items())
    listing = facts_table()
    listing.add_row("read as", report.format)
    listing.add_row("images", images)
    for what, count in report.found.items():
        listing.add_row("", f"{count:,} {what}")
    listing.add_row("splits", report.splits)
    listing.add_row("annotations", ", ".join(report.written) or "none: features can be extracted")
    if report.classes:
        counted = [f"{name} {report.objects.get(name, '')}".strip() for name in report.classes]
        more = f" and {len(counted) - 2 * SHOWN} more" if len(counted) > 2 * SHOWN else ""
        listing.add_row("classes", f"{len(counted)}: {', '.join(counted[: 2 * SHOWN])}{more}")
    reasons: dict[str, list[str]] = {}
    for name, why in report.left_out.items():
        reasons.setdefault(why, []).append(name)
    left_out = [
        f"{name}{f' and {len(others):,} more' if others else ''}: {why}" for why, (name, *others) in reasons.items()
    ]
    for what, texts in (("note", report.notes), ("left out", left_out)):
        for text in texts[:SHOWN]:
            listing.add_row(what, text)
        if len(texts) > SHOWN:
            listing.add_row("", f"and {len(texts) - SHOWN} more")
    if max(len(report.notes), len(left_out)) > SHOWN or len(left_out) < len(report.left_out):
        listing.add_row("", f"all of it in {folder / 'import.json'}")
    out.print(listing)
    root = folder.absolute().parent
    place = "" if root == Path.cwd() / "data" else f" --data-root {shlex.quote(str(folder.parent))}"
    place += "" if len(report.images) > 1 else f" --split {next(iter(report.images))}"
    out.print(f"next: deapcache extract --dataset {shlex.quote(f'folder:{folder.name}')}{place} --backbone dinov2")
