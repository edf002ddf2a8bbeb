"""``deapcache list backbones|datasets|tasks|readouts``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import out, print_json, size, table

if TYPE_CHECKING:
    from deapcache.datasets import DatasetEntry

app = typer.Typer(help="Show what there is: backbones, datasets, tasks, readouts.", no_args_is_help=True)


@app.command("backbones")
def list_backbones(json: options.Json = False) -> None:
    """Backbones by our names; timm:NAME[.TAG], open_clip:MODEL/TAG and NAME@untrained work too.

    I: image side, F: feature side, D': feature width.
    """
    from deapcache.backbones import BACKBONES, weights_status

    rows = [_backbone_row(entry, weights_status(name)) for name, entry in BACKBONES]
    if json:
        print_json(rows)
        return
    right = ("I", "F", "D'", "parameters", "bytes/image")
    shown = table("name", "I", "F", "D'", "parameters", "bytes/image", "category", "licence", "weights", right=right)
    for row in rows:
        shown.add_row(
            row["name"],
            _side(row["image_size"]),
            _side(row["grid"]),
            str(row["dim"]),
            f"{row['parameters'] / 1e6:.1f} M",
            size(row["bytes_per_image"]),
            row["category"],
            row["licence"],
            row["weights"],
        )
    out.print(shown)


def _backbone_row(entry: Any, weights: str) -> dict[str, Any]:
    height, width = entry.grid
    return {
        "name": entry.name,
        "architecture": entry.architecture,
        "image_size": list(entry.image_size),
        "grid": list(entry.grid),
        "dim": entry.dim,
        "parameters": entry.parameters,
        "bytes_per_image": 2 * height * width * entry.dim,
        "category": entry.category,
        "training_data": entry.training_data,
        "licence": entry.licence,
        "weights": weights,
    }


def _side(pair: list[int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}×{pair[1]}"


@app.command("datasets")
def list_datasets(data_root: options.DataRoot = None, json: options.Json = False) -> None:
    """Datasets: what is expected where, and what was found."""
    from deapcache.datasets import DATASETS

    root = locations.data_root(data_root)
    if json:
        print_json({"data_root": str(root), "datasets": [_dataset_row(entry, root) for _, entry in DATASETS]})
        return
    for name, entry in DATASETS:
        out.print(f"[bold]{name}[/bold]  {entry.summary}")
        splits = "; ".join(f"{split}: {what}" for split, what in found(entry, root).items())
        out.print(f"  found: {splits}", markup=False)
        out.print(f"  expected: {entry.layout}", markup=False)
        out.print(f"  licence: {entry.licence}", markup=False)


def _dataset_row(entry: DatasetEntry, root: Path) -> dict[str, Any]:
    return {
        "name": entry.name,
        "summary": entry.summary,
        "expected": entry.layout,
        "licence": entry.licence,
        "found": found(entry, root),
    }


def found(entry: DatasetEntry, root: Path) -> dict[str, str]:
    """Per split: how many images are there, or what is missing."""
    return {
        split: f"{status.images:,} images" if status.is_usable else f"missing {', '.join(status.missing)}"
        for split, status in entry.status(root).items()
    }


@app.command("tasks")
def list_tasks(json: options.Json = False) -> None:
    """Tasks: the annotation they need, their metrics and default dataset."""
    from deapcache.tasks import TASKS, get_task

    tasks = [get_task(name) for name in TASKS.names()]
    rows = [
        {
            "name": task.name,
            "annotation": task.annotation,
            "default_dataset": task.default_dataset,
            "metrics": {
                name: {"unit": m.unit, "higher_is_better": m.higher_is_better} for name, m in task.metrics.items()
            },
        }
        for task in tasks
    ]
    if json:
        print_json(rows)
        return
    shown = table("task", "annotation", "default dataset", "metrics")
    for task in tasks:
        arrows = [f"{name} {'↑' if m.higher_is_better else '↓'}" for name, m in task.metrics.items()]
        shown.add_row(task.name, task.annotation, task.default_dataset, ", ".join(arrows))
    out.print(shown)


@app.command("readouts")
def list_readouts(json: options.Json = False) -> None:
    """Readouts: what each one is."""
    from deapcache.readouts import READOUTS

    rows = [{"name": name, "summary": entry.summary} for name, entry in READOUTS]
    if json:
        print_json(rows)
        return
    shown = table("readout", "what it is")
    for row in rows:
        shown.add_row(row["name"], row["summary"])
    out.print(shown)
