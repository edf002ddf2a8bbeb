"""``deapcache figures``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import out, print_json, table
from deapcache.errors import LocationError, ReadOnlyError, UsageError

_OPTIONS = {
    "task": "--task", "dataset": "--dataset", "backbone": "--backbone", "readout": "--readout",
    "protocol": "--protocol", "cache": "--cache", "lr": "--lr", "paper": "--paper", "reference": "--reference",
    "device": "--device", "run": "--run", "size": "--size", "images": "--images", "image": "--image",
    "weights": "--weights", "split": "--split",
}  # fmt: skip


def figures_command(
    name: Annotated[str | None, typer.Argument(help="Which figure; --list shows them.", show_default=False)] = None,
    file: Annotated[
        Path | None, typer.Option("--out", callback=options.local_path, help="File to write: .png, .svg or .pdf.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show the figures, and what each needs.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file where there is one.")] = False,
    task: options.OnlyTasks = None,
    dataset: options.OnlyDatasets = None,
    backbone: options.OnlyBackbones = None,
    readout: options.OnlyReadouts = None,
    protocol: options.OnlyProtocols = None,
    cache: options.OnlyCaches = None,
    lr: Annotated[
        str | None,
        typer.Option("--lr", help="Learning rates to show: 1e-3. Default: the one that most backbones were probed at."),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Show the paper's numbers too, marked as such.")] = False,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="correlations: CSV of scores to compare with, headed backbone,NAME OF SCORE."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="speed-quality: the device whose speeds are shown.")
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="resolutions: a run's name, the beginning of it, or its readout's file.")
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="resolutions: output sizes: 56,224,448x672.")] = None,
    images: Annotated[
        int | None, typer.Option("--images", help="resolutions, features: how many images to show; 3 unless given.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", help="resolutions: photographs instead of cached images. Repeatable."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="resolutions: the backbone's checkpoint, for --image.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="features: the split; val unless given.")] = None,
    home: options.Home = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Draw a figure from the home's results, caches and readouts."""
    if listing:
        _list(json)
        return
    given = {
        "task": task, "dataset": dataset, "backbone": backbone, "readout": readout, "protocol": protocol,
        "cache": cache, "lr": lr, "paper": paper, "reference": reference, "device": device, "run": run, "size": size,
        "images": images, "image": image, "weights": weights, "split": split,
    }  # fmt: skip
    written = _draw(name, file, overwrite, given, home)
    if json:
        print_json({"figure": name, "file": str(written)})
    else:
        out.print(f"figure: {written}", markup=False)


def _draw(name: str | None, file: Path | None, overwrite: bool, given: dict[str, Any], home: str | None) -> Path:
    from deapcache.experiments import FigureRequest, make_figure, parse_sizes

    if name is None or file is None:
        raise UsageError("figures takes a name and a file, NAME --out FILE.png; --list shows the names")
    _require_taken(name, {option for option, value in given.items() if value not in (None, False, [])})
    form = _format(file)
    _require_free(file, overwrite)
    chosen = {kind: given[kind] for kind in ("task", "dataset", "backbone", "readout", "protocol", "cache")}
    request = FigureRequest(
        name=name,
        home=locations.home(home),
        selection=options.selection(**chosen),
        rates=options.rates(given["lr"], "--lr") if given["lr"] else (),
        paper=given["paper"],
        reference=given["reference"],
        speed_device=given["device"],
        run=given["run"],
        sizes=parse_sizes(given["size"]) if given["size"] else [],
        images=3 if given["images"] is None else given["images"],
        files=given["image"] or [],
        weights=given["weights"],
        split=given["split"] or "val",
    )
    _write(file, make_figure(request).save(form))
    return file


def _require_taken(name: str, given: set[str]) -> None:
    """Refuse options that would do nothing."""
    from deapcache.results.figures import find_figure

    taken = find_figure(name).options
    if idle := [_OPTIONS[option] for option in _OPTIONS if option in given and option not in taken]:
        raise UsageError(
            f"figure {name} does not take {', '.join(idle)}: it takes {', '.join(_OPTIONS[each] for each in taken)}"
        )
    if "image" in given and "images" in given:
        raise UsageError("--image and --images: give photographs, or how many cached images to show")


def _format(file: Path) -> str:
    from deapcache.results.figures import FORMATS

    form = file.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise UsageError(f"--out {file}: expected a name that ends in .{', .'.join(FORMATS)}")
    return form


def _require_free(file: Path, overwrite: bool) -> None:
    folder = file.absolute().parent
    if folder.is_dir():
        locations.locate(folder).require_names([file.name])
    if not folder.is_dir() or file.is_dir():
        what = f"there is no folder {folder}" if not folder.is_dir() else "is a folder"
        raise LocationError(f"--out {file}: {what}; give a file in a folder that is there")
    if file.exists() and not overwrite:
        raise UsageError(f"{file} is there already: give --overwrite to replace it, or another --out")


def _write(file: Path, data: bytes) -> None:
    try:
        file.write_bytes(data)
    except OSError as error:
        kind = ReadOnlyError if isinstance(error, PermissionError) else LocationError
        raise kind(f"--out {file}: cannot be written ({error.strerror}); give another file") from None


def _list(json: bool) -> None:
    from deapcache.results.figures import FIGURES

    if json:
        print_json([{**vars(entry), "options": [_OPTIONS[each] for each in entry.options]} for entry in FIGURES])
        return
    shown = table("figure", "shows", "needs")
    for entry in FIGURES:
        shown.add_row(entry.name, entry.shows, entry.needs)
    out.print(shown)
