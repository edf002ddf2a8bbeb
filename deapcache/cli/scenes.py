"""``deapcache scenes export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deapcache.cli import options
from deapcache.cli.console import bars, out, print_json
from deapcache.cli.options import App

app = App(help="The embedded dataset: rendered rooms with exact annotations.", no_args_is_help=True)


@app.command("export")
def export_command(
    layout: Annotated[str, typer.Option("--as", help="Layout: coco, coco-stuff, voc, nyuv2 or folder.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder to fill: empty, or not there yet.")],
    split: Annotated[str | None, typer.Option("--split", help="Splits: train,val. Default: both.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first N images of each split.")] = None,
    json: options.Json = False,
) -> None:
    """Write the scenes as another dataset is distributed, for its loader or any other tool to read.

    The folder is filled when everything is made: an interrupted export leaves nothing that looks whole.
    """
    from deapcache.datasets.scenes import Scenes
    from deapcache.datasets.scenes.export import export_scenes

    splits = options.names(split) or Scenes.splits
    with bars() as shown:
        report = export_scenes(
            layout,
            folder,
            splits=splits,
            limit=limit,
            progress=lambda done, total: shown.show(f"scenes as {layout}", done, total, "images"),
        )
    if json:
        print_json(report.to_json())
        return
    counts = ", ".join(f"{count:,} {split}" for split, count in report.images.items())
    out.print(f"{report.path}: {counts} images as {report.format} has them", markup=False)
    out.print(f"read them with --dataset {report.dataset} --data-root {report.path}", markup=False)
