"""Options of verbs whose work several processes can do, and the cluster that they ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache.cli.console import note
from deapcache.errors import UsageError

if TYPE_CHECKING:
    from deapcache.extraction import Cluster

Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Processes on this machine, each with its GPU or its share of the cores. Default: one for each GPU where "
        "there are several, else none but this one.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", help="Address of a Dask cluster whose workers do the work: tcp://host:8786."),
]


@contextmanager
def cluster_for(scheduler: str | None, workers: int | None, device: str) -> Iterator[Cluster | None]:
    """The workers that the options ask for; None where this process does the work itself."""
    from deapcache.extraction import default_workers, open_cluster

    if scheduler is not None and workers is not None:
        raise UsageError("--workers starts workers on this machine, --scheduler takes those of a cluster: give one")
    wanted = default_workers(device) if workers is None else workers
    if scheduler is None and workers is None and wanted == 0:
        yield None
        return
    with open_cluster(scheduler=scheduler, workers=wanted, device=device, say=note) as cluster:
        yield cluster
