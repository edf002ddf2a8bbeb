"""``deapcache speed``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deapcache.cli import options
from deapcache.cli.console import FAILURE, bars, err, note, show, size

if TYPE_CHECKING:
    from deapcache.results.speeds import Speed


def speed_command(
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Backbones: a,b (deapcache list backbones).")
    ] = None,
    image_size: options.ImageSize = None,
    precision: Annotated[str, typer.Option("--precision", help="Of backbones: fp32, bf16 or fp16 autocast.")] = "fp32",
    device: options.Device = "auto",
    home: options.Home = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> int:
    """Time ten batches of eight samples in inference, relative to ViT-B/16 at 224, and keep that in the home.

    Weights that are not at hand are not fetched: an untrained copy takes as long, and is marked. What cannot be built
    here, or does not fit, does not stop the others: it is reported, and the exit code is 1.
    """
    names = options.backbone_names(backbone, image_size)
    from deapcache.experiments.speed import measure_speeds  # loads torch
    from deapcache.results.speeds import write_speed

    place = options.own_home(home)
    place.require_writable()
    problems: list[str] = []
    done: list[Speed] = []
    with bars() as display:
        measured = measure_speeds(
            names,
            device=device,
            precision=precision,
            progress=lambda what, count, total: display.show("speed", count, total, "measured", what),
            failed=lambda what, why: problems.append(f"{what}: {why}"),
        )
        for one in measured:
            write_speed(place, one)  # each at once, so that an interruption costs one
            done.append(one)
    if done or json:
        _show_speeds(done, json)
    for problem in problems:
        err.print(f"not measured: {problem}", style="red")
    return FAILURE if problems else 0


def _show_speeds(speeds: list[Speed], json: bool) -> None:
    """One row each: the median rate and its range, and the time relative to the reference."""
    title = ""
    if speeds:
        first = speeds[0]
        title = f"{first.device}: {len(first.seconds)} batches of {first.batch}; time relative to ViT-B/16 at 224 = 1"
    show(
        speeds,
        json,
        {
            "name": lambda one: one.name,
            "input": lambda one: one.input,
            "images/s": lambda one: f"{one.images_per_second['median']:.3g}",
            "slowest–fastest": lambda one: f"{one.images_per_second['min']:.3g}–{one.images_per_second['max']:.3g}",
            "time": lambda one: f"{one.runtime_factor:.3g}",
            "memory": lambda one: size(one.peak_memory_bytes),
            "parameters": lambda one: f"{one.parameters / 1e6:.2f} M",
            "weights": lambda one: one.weights,
        },
        right=("images/s", "slowest–fastest", "time", "memory", "parameters"),
        title=title,
        document=lambda one: one.to_json(),
    )
    if not json and any(one.weights == "untrained copy" for one in speeds):
        note("untrained copy: its weights are not at hand, and it takes as long without")
