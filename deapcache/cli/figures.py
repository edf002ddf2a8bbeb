"""``deapcache figures``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import out, print_json, show
from deapcache.errors import LocationError, ReadOnlyError, UsageError


@dataclass(frozen=True, kw_only=True)
class _Choices(options.ResultFilter):
    """What a figure shows; each takes some of these options."""

    lr: Annotated[
        str | None,
        typer.Option("--lr", help="Learning rates to show: 1e-3. Default: the one that most backbones were probed at."),
    ] = None
    paper: Annotated[bool, typer.Option("--paper", help="Show the paper's numbers too, marked as such.")] = False
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="correlations: CSV of scores to compare with, headed backbone,NAME OF SCORE."),
    ] = None
    device: Annotated[
        str | None, typer.Option("--device", help="speed-quality: the device whose speeds are shown.")
    ] = None
    run: Annotated[
        str | None, typer.Option("--run", help="resolutions: a run's name, the beginning of it, or its readout's file.")
    ] = None
    size: Annotated[str | None, typer.Option("--size", help="resolutions: output sizes: 56,224,448x672.")] = None
    images: Annotated[
        int | None, typer.Option("--images", help="resolutions, features: how many images to show; 3 unless given.")
    ] = None
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", help="resolutions: photographs instead of cached images. Repeatable."),
    ] = None
    weights: Annotated[
        Path | None, typer.Option("--weights", help="resolutions: the backbone's checkpoint, for --image.")
    ] = None
    split: Annotated[str | None, typer.Option("--split", help="features: the split; val unless given.")] = None

    def names(self) -> list[str]:
        """The options that are given, in their order."""
        return [each.name for each in fields(self) if getattr(self, each.name) not in (None, False, [])]


def figures_command(
    *,
    name: Annotated[str | None, typer.Argument(help="Which figure; --list shows them.", show_default=False)] = None,
    file: Annotated[
        Path | None, typer.Option("--out", callback=options.local_path, help="File to write: .png, .svg or .pdf.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show the figures, and what each needs.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file where there is one.")] = False,
    choices: _Choices,
    home: options.Home = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Draw a figure from the home's results, caches and readouts."""
    if listing:
        _list(json)
        return
    if name is None or file is None:
        raise UsageError("figures takes a name and a file, NAME --out FILE.png; --list shows the names")
    _draw(name, file, overwrite, choices, home)
    if json:
        print_json({"figure": name, "file": str(file)})
    else:
        out.print(f"figure: {file}")


def _draw(name: str, file: Path, overwrite: bool, choices: _Choices, home: str | None) -> None:
    from deapcache.results.figures import FORMATS, find_figure

    taken, given = find_figure(name).options, choices.names()
    if idle := [f"--{option}" for option in given if option not in taken]:
        raise UsageError(
            f"figure {name} does not take {', '.join(idle)}: it takes {', '.join(f'--{each}' for each in taken)}"
        )
    if "image" in given and "images" in given:
        raise UsageError("--image and --images: give photographs, or how many cached images to show")
    form = file.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise UsageError(f"--out {file}: expected a name that ends in .{', .'.join(FORMATS)}")
    _require_free(file, overwrite)
    sizes, rates = options.sizes(choices.size), options.rates(choices.lr)
    from deapcache.experiments import FigureRequest, make_figure  # loads torch: what is mistyped is said before

    request = FigureRequest(
        name=name,
        home=locations.home(home),
        selection=choices.selection(),
        rates=rates,
        paper=choices.paper,
        reference=choices.reference,
        speed_device=choices.device,
        run=choices.run,
        sizes=sizes,
        images=3 if choices.images is None else choices.images,
        files=choices.image or [],
        weights=choices.weights,
        split=choices.split or "val",
    )
    data = make_figure(request).save(form)
    try:
        file.write_bytes(data)
    except OSError as error:
        kind = ReadOnlyError if isinstance(error, PermissionError) else LocationError
        raise kind(f"--out {file}: cannot be written ({error.strerror}); give another file") from None


def _require_free(file: Path, overwrite: bool) -> None:
    folder = file.absolute().parent
    if folder.is_dir():
        locations.locate(folder).require_names([file.name])
    if not folder.is_dir() or file.is_dir():
        what = f"there is no folder {folder}" if not folder.is_dir() else "is a folder"
        raise LocationError(f"--out {file}: {what}; give a file in a folder that is there")
    if file.exists() and not overwrite:
        raise UsageError(f"{file} is there already: give --overwrite to replace it, or another --out")


def _list(json: bool) -> None:
    from deapcache.results.figures import FIGURES

    show(
        FIGURES,
        json,
        {"figure": lambda each: each.name, "shows": lambda each: each.shows, "needs": lambda each: each.needs},
        document=lambda each: {**vars(each), "options": [f"--{option}" for option in each.options]},
    )
