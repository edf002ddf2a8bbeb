"""``deapcache correspondence``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import bars, print_json
from deapcache.cli.probe import recipe_fields, results_home_of


def correspondence_command(
    *,
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset with pairs of images.")] = "spair-71k",
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Backbones: a,b. Default: every one cached for the dataset.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="Recipe field that features must have: storage=float16. Repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Score the first N pairs only.")] = None,
    data_root: options.DataRoot = None,
    caches: options.Caches,
    results_home: Annotated[
        str | None, typer.Option("--results-home", help="Where results go: a path, s3:// or gs://. Default: --home.")
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Score cached features by the keypoints that they find again in other images; nothing is trained.

    Features come from `deapcache extract --dataset spair-71k --split val`; the pairs are read from the dataset's files.
    """
    from deapcache.experiments import choose_device
    from deapcache.experiments.correspondence import correspondence
    from deapcache.results import HomeIntervals, make_tables, print_tables, table_rows

    place = caches.location()
    own = results_home_of(results_home, place)
    with bars() as display:
        results = list(
            correspondence(
                place,
                dataset=dataset,
                data_root=locations.data_root(data_root),
                backbones=options.names(backbone),
                where=recipe_fields(where or []),
                limit=limit,
                results_home=own,
                device=str(choose_device(device)),
                command=sys.argv,
                progress=lambda name, done, total: display.show(f"{name}: score", done, total, "pairs", ""),
            )
        )
    if json:
        print_json([result.to_json() for result in results])
        return
    print_tables(make_tables(table_rows(results, uncertainty=HomeIntervals(own))))
