"""``deapcache list backbones|datasets|tasks|readouts|protocols``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import note, out, print_json, show, size, table
from deapcache.cli.options import App
from deapcache.errors import UsageError, require_choice

if TYPE_CHECKING:
    from deapcache.datasets import Dataset, SplitStatus
    from deapcache.readouts import ReadoutEntry

_DEPENDS = "depend on its files"
_OF_A_BACKBONE = (
    *("name", "architecture", "image_size", "grid", "dim", "parameters", "bytes_per_image", "category"),
    *("training_data", "licence", "gated"),
)
"""Attributes of a backbone's entry that ``--json`` shows."""

app = App(help="Show what there is: backbones, datasets, tasks, readouts, protocols.", no_args_is_help=True)


@app.command("backbones")
def list_backbones(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="These alone, whatever library they are of: hf:OWNER/NAME@512."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", help="modern: names of what is used since the paper. Default: the paper's and yours."),
    ] = None,
    plugin: options.Plugin = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Backbones by our names; timm:NAME[.TAG], open_clip:MODEL/TAG, hf:OWNER/NAME work too.

    Each also as NAME@untrained, NAME@untrained:SEED and, at another image size, NAME@512. I: image side, F: feature
    side, D': feature width.
    """
    from deapcache.backbones import BACKBONES, GROUPS, describe, weights_status

    if group is not None:
        require_choice("group", group, GROUPS)
    if names:
        entries = [describe(name) for given in names for name in options.names(given)]
    else:
        entries = [entry for _, entry in BACKBONES if entry.group == (group or "")]
    show(
        entries,
        json,
        {
            "name": lambda entry: entry.name,
            "I": lambda entry: _side(entry.image_size),
            "F": lambda entry: _side(entry.grid),
            "D'": lambda entry: str(entry.dim),
            "parameters": lambda entry: f"{entry.parameters / 1e6:.1f} M" if entry.parameters else "–",
            "bytes/image": lambda entry: size(entry.bytes_per_image),
            "category": lambda entry: entry.category,
            "licence": lambda entry: entry.terms,
            "weights": lambda entry: weights_status(entry.name),
        },
        right=("I", "F", "D'", "parameters", "bytes/image"),
        document=lambda entry: {
            **{name: getattr(entry, name) for name in _OF_A_BACKBONE},
            "weights": weights_status(entry.name),
        },
    )
    if not (names or group or json):
        more = sum(bool(entry.group) for _, entry in BACKBONES)
        note(f"{more} more of what is used since the paper: deapcache list backbones --group modern")


def _side(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}×{pair[1]}"


@app.command("datasets")
def list_datasets(
    data_root: options.DataRoot = None, plugin: options.Plugin = None, json: options.Json = False
) -> None:
    """Datasets: what is expected where, what was found, which annotations they have and for which tasks.

    `deapcache doctor --dataset NAME` looks closer at one.
    """
    from deapcache.datasets import DATASETS

    root = locations.data_root(data_root)
    if json:
        print_json({"data_root": str(root), "datasets": [_dataset_row(entry, root) for _, entry in DATASETS]})
        return
    for name, entry in DATASETS:
        row = _dataset_row(entry, root)
        out.print(name, style="bold", end="  ")
        out.print(entry.summary)
        out.print(f"  found: {'; '.join(f'{split}: {what}' for split, what in row['found'].items())}")
        out.print(f"  annotations: {', '.join(_annotations(entry)) or _DEPENDS}")
        out.print(f"  tasks: {', '.join(row['tasks']) or _DEPENDS}")
        layout = entry.layout.replace("\n", "\n            ")
        out.print(f"  expected: {layout}")
        out.print(f"  licence: {entry.licence}")


def _dataset_row(entry: type[Dataset], root: Path) -> dict[str, Any]:
    from deapcache.datasets import dataset_status
    from deapcache.tasks import TASKS, get_task

    status = dataset_status(entry, root)
    return {
        "name": entry.name,
        "summary": entry.summary,
        "expected": entry.layout,
        "licence": entry.licence,
        "annotations": list(entry.annotations),
        "classes": len(entry.classes),
        "tasks": [name for name in TASKS.names() if get_task(name).suits(entry.annotations, entry.classes)],
        "found": images_found(entry, status),
        "images": {split: what.images for split, what in status.items()},
        "official": dict(entry.official),
    }


def images_found(entry: type[Dataset], status: Mapping[str, SplitStatus]) -> dict[str, str]:
    """Per split: how many images are there beside the official number, or what is missing."""
    found = {}
    for split, what in status.items():
        official = entry.official.get(split)
        if what.is_usable:
            found[split] = f"{what.images:,} images" + ("" if official is None else f" (official: {official:,})")
        else:
            found[split] = f"missing {', '.join(what.missing)}" if what.missing else "no image"
    return found


def _annotations(entry: type[Dataset]) -> Iterator[str]:
    """The kinds of labels, with the number of classes."""
    for kind in entry.annotations:
        yield f"{kind} ({len(entry.classes)})" if kind == "classes" and entry.classes else kind


@app.command("tasks")
def list_tasks(plugin: options.Plugin = None, json: options.Json = False) -> None:
    """Tasks: the annotation they need, their metrics and default dataset."""
    from deapcache.tasks import TASKS, get_task

    show(
        [get_task(name) for name in TASKS.names()],
        json,
        {
            "task": lambda task: task.name,
            "annotations": lambda task: ", ".join(task.annotations),
            "default dataset": lambda task: task.default_dataset,
            "metrics": lambda task: ", ".join(
                f"{name} {'↑' if metric.higher_is_better else '↓'}" for name, metric in task.metrics.items()
            ),
            "--task-option": lambda task: "; ".join(
                f"{task.name}.{name}={'|'.join(values)}" for name, values in task.choices.items()
            ),
        },
        document=lambda task: {
            "name": task.name,
            "annotations": list(task.annotations),
            "default_dataset": task.default_dataset,
            "choices": {name: list(values) for name, values in task.choices.items()},
            "metrics": {
                name: {"unit": metric.unit, "higher_is_better": metric.higher_is_better}
                for name, metric in task.metrics.items()
            },
        },
    )


@app.command("readouts")
def list_readouts(
    params: Annotated[
        bool, typer.Option("--params", help="Learnable parameters on the paper's backbones, for each of its tasks.")
    ] = False,
    readout: Annotated[
        str | None, typer.Option("--readout", help="With --params: which readout, NAME or NAME:D. Default: deap.")
    ] = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Readouts: what each one is, in which sizes it comes, and how many parameters it has.

    A size is part of the name: bicubic:32. D is 16 where the name has none.
    """
    from deapcache.readouts import READOUTS

    if readout is not None and not params:
        raise UsageError("--readout says whose parameters to count: give --params with it")
    if params:
        _show_parameters(readout or "deap", json)
        return

    def document(pair: tuple[str, ReadoutEntry]) -> dict[str, Any]:
        from deapcache.experiments import count_parameters

        name, entry = pair
        parameters = count_parameters(name)
        return {"name": name, "summary": entry.summary, "sizes": list(entry.sizes), "parameters": parameters}

    show(
        READOUTS,
        json,
        {
            "readout": lambda pair: pair[0],
            "D": lambda pair: ", ".join(map(str, pair[1].sizes)) or "—",
            "what it is": lambda pair: pair[1].summary,
        },
        document=document,
    )


@app.command("protocols")
def list_protocols(json: options.Json = False) -> None:
    """Named protocols: whole sets of the choices of a probe, for --protocol. They are frozen: see docs/protocol.md."""
    from deapcache.protocols import DEFAULT_PROTOCOL, PROTOCOLS

    show(
        PROTOCOLS.items(),
        json,
        {
            "protocol": lambda pair: pair[0] + (" (default)" if pair[0] == DEFAULT_PROTOCOL else ""),
            "digest": lambda pair: pair[1].digest[:12],
            "what it is": lambda pair: pair[1].summary,
        },
        document=lambda pair: {"name": pair[0], **pair[1].to_json()},
    )


def _show_parameters(readout: str, json: bool) -> None:
    """One row a backbone, in millions to three decimals, as the paper prints them."""
    from deapcache.experiments import PAPER_TASKS, count_parameters

    counts = count_parameters(readout)
    if json:
        print_json({"readout": readout, "parameters": counts})
        return
    listing = table("backbone", *PAPER_TASKS, title=f"learnable parameters of {readout}, millions", right=PAPER_TASKS)
    for backbone, by_task in counts.items():
        listing.add_row(backbone, *(f"{count / 1e6:.3f}" for count in by_task.values()))
    out.print(listing)
