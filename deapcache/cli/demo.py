"""``deapcache demo``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import bars, out
from deapcache.cli.extract import progress_on, show_reports
from deapcache.cli.probe import report_on, show_results


def demo_command(
    home: options.Home = None,
    iterations: Annotated[int, typer.Option("--iterations", help="Training steps of each readout.")] = 300,
) -> None:
    """The whole pipeline in minutes, with no download: rendered scenes, a pretrained backbone and its control."""
    from deapcache.experiments import run_demo

    with bars() as shown:
        extracted, probed = run_demo(
            locations.home(home),
            iterations=iterations,
            progress=progress_on(shown),
            report=report_on(shown),
            command=sys.argv,
        )
    show_reports(extracted, json=False)
    out.print()
    show_results(probed, json=False)
