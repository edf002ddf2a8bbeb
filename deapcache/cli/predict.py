"""``deapcache predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import FAILURE, bars, err, note, out, print_json

if TYPE_CHECKING:
    from deapcache.experiments import Predicted


def predict_command(
    *,
    readout: Annotated[
        str, typer.Option("--readout", help="Run: its name or the beginning of it, or HOME/readouts/RUN.safetensors.")
    ],
    image: Annotated[list[Path], typer.Option("--image", help="Image file, or several: --image *.jpg.")],
    folder: Annotated[
        str, typer.Option("--out", help="Folder or address for pictures and arrays; made where there is none.")
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Further image files.", show_default=False)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", help="Output size, or several: 56,224,448x672. Default: the one trained at."),
    ] = None,
    save_arrays: Annotated[
        bool, typer.Option("--save-arrays", help="Also write the numbers: a .npy for each size, a .json about them.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of earlier predictions.")] = False,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="The backbone's checkpoint, where the extraction was given one.")
    ] = None,
    device: options.Device = "auto",
    caches: options.Caches,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> int:
    """Ask a trained readout about images of your own, at any output size.

    A picture for each image shows it and the prediction at each size. An image that cannot be decoded does not stop the
    others: it is reported, and the exit code is 1.
    """
    images, sizes = list(dict.fromkeys([*image, *(more or [])])), options.sizes(size)
    from deapcache.experiments import PredictRequest, find_run, predict_files  # loads torch: sizes are looked at before

    run = find_run(caches.location(), readout)
    request = PredictRequest(
        images=images,
        out=locations.locate(folder),
        sizes=sizes,
        save_arrays=save_arrays,
        overwrite=overwrite,
        weights=weights,
        device=device,
    )
    done: list[Predicted] = []
    with bars() as display:
        for one in predict_files(run, request):
            done.append(one)
            display.show("predict", len(done), len(images), "images")
    if json:
        print_json([one.to_json() for one in done])
    for one in done:
        if one.error:
            err.print(f"error: {one.error}", style="red")
        elif not json:
            made = [("picture", one.picture), *(("array", file) for file in one.arrays), ("facts", one.facts)]
            for what, file in made:
                if file:
                    out.print(f"{what}: {file}")
        if one.picture_problem:
            note(f"no picture of {one.image}: {one.picture_problem}")
    return FAILURE if any(one.error for one in done) else 0
