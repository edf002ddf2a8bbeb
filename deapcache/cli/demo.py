"""``deapcache demo``: the pipeline of that name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.run import execute


def demo_command(
    home: options.Home = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", help="Training steps of each readout. Default: the pipeline's.")
    ] = None,
) -> int:
    """The whole way in minutes, with no download: rendered scenes, a pretrained backbone and its control.

    The same as `deapcache run demo`.
    """
    from deapcache.experiments import load_pipeline, plan_pipeline

    settings = [] if iterations is None else [f"iterations={iterations}"]
    return execute(plan_pipeline(load_pipeline("demo", settings), locations.home(home), Path()), json=False)
