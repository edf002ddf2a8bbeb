"""``deapcache results``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import out, print_json

if TYPE_CHECKING:
    from deapcache.results import Summary, UncertaintyOf


def results_command(
    task: options.OnlyTasks = None,
    dataset: options.OnlyDatasets = None,
    backbone: options.OnlyBackbones = None,
    readout: options.OnlyReadouts = None,
    protocol: options.OnlyProtocols = None,
    cache: options.OnlyCaches = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Show results of different protocols too, apart and marked.")
    ] = False,
    intervals: Annotated[
        bool, typer.Option("--intervals/--no-intervals", help="95% intervals over images, by bootstrap.")
    ] = True,
    paper: Annotated[
        bool, typer.Option("--paper", help="In the layouts of the paper's tables, its numbers beside ours.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    home: options.Home = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Tables of the home's results: seeds averaged, only what was measured the same way beside each other."""
    from deapcache.results import HomeIntervals, load_results, select, summarise

    place = locations.home(home)
    results = load_results(place)
    if not results and not json:
        out.print(f"no results in {place}: make one with deapcache probe --task NAME", markup=False)
        return
    wanted = options.selection(
        task=task, dataset=dataset, backbone=backbone, readout=readout, protocol=protocol, cache=cache
    )
    summaries = summarise(select(results, wanted), allow_mixed=allow_mixed)
    uncertainty = HomeIntervals(place) if intervals else None
    if json:
        print_json(_documents(summaries, paper, uncertainty))
    else:
        _show(summaries, paper, markdown, uncertainty)


def _documents(summaries: list[Summary], paper: bool, uncertainty: UncertaintyOf | None) -> list[dict[str, Any]]:
    from deapcache.results import LAYOUTS, comparison_table, tables_json

    if not paper:
        return tables_json(summaries, uncertainty=uncertainty)
    sheets = [sheet for layout in LAYOUTS for sheet in comparison_table(summaries, layout, uncertainty=uncertainty)]
    return [sheet.to_json() for sheet in sheets]


def _show(summaries: list[Summary], paper: bool, markdown: bool, uncertainty: UncertaintyOf | None) -> None:
    from deapcache.results import LAYOUTS, PLAIN, layout_blocks, print_blocks
    from deapcache.results import markdown as as_markdown

    for layout in LAYOUTS if paper else (PLAIN,):
        blocks = layout_blocks(summaries, layout, uncertainty=uncertainty)
        if markdown:
            out.print("\n".join(as_markdown(block) for block in blocks), markup=False)
        else:
            print_blocks(blocks)
