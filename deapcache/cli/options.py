"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache import locations, plugins
from deapcache.errors import UsageError

if TYPE_CHECKING:
    from deapcache.results import Selection

Home = Annotated[
    str | None,
    typer.Option(
        "--home",
        help="Cache home: a path or URL. Default: $DEAPCACHE_HOME, then $XDG_CACHE_HOME/deapcache, ~/.cache/deapcache.",
    ),
]
ReadHomes = Annotated[
    list[str] | None,
    typer.Option(
        "--read-home",
        help="Another home whose caches are read, never written: a path or URL. Repeatable, searched in this order "
        "after --home. Default: $DEAPCACHE_READ_HOMES, with commas between them.",
    ),
]
TierFolder = Annotated[
    Path | None,
    typer.Option(
        "--local-tier",
        help="Folder on a fast local disk that keeps shards read from elsewhere. Default: $DEAPCACHE_LOCAL_TIER.",
    ),
]
TierSize = Annotated[
    str | None,
    typer.Option(
        "--local-tier-size", help="Most that the local tier may hold: 200GB. Default: $DEAPCACHE_LOCAL_TIER_SIZE."
    ),
]
ResultsHome = Annotated[
    str | None,
    typer.Option(
        "--results-home",
        help="Where results, readouts and pictures go: a path, s3:// or gs://. Default: --home, "
        "and where that is a web server, the home that is meant without --home.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", help="Where datasets lie as downloaded. Default: $DEAPCACHE_DATA, then ./data."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Device = Annotated[str, typer.Option("--device", help="auto (a GPU where there is one), cpu, cuda, cuda:1, …")]

OnlyTasks = Annotated[str | None, typer.Option("--task", help="Only results of these tasks: a,b.")]
OnlyDatasets = Annotated[str | None, typer.Option("--dataset", help="Only on these datasets: a,b.")]
OnlyBackbones = Annotated[str | None, typer.Option("--backbone", help="Only of these backbones: a,b.")]
OnlyReadouts = Annotated[str | None, typer.Option("--readout", help="Only of these readouts: a,b.")]
OnlyProtocols = Annotated[
    str | None, typer.Option("--protocol", help="Only of these protocols, by first characters of the digest: a,b.")
]
OnlyCaches = Annotated[
    str | None, typer.Option("--cache", help="Only what has read one of these caches, by first characters: a,b.")
]


def local_path(option: typer.CallbackParam, given: Path | None) -> Path | None:
    """Callback of options for what is written to this machine; raises :class:`UsageError` for an address."""
    return None if given is None else locations.local_path(given, what=option.opts[0])


def place(
    home: str | None, read_homes: list[str] | None = None, tier: Path | None = None, tier_size: str | None = None
) -> locations.Location:
    """The home and those that are read beside it, through the local tier; by default what the environment says."""
    return locations.home(home, read_homes=read_homes, tier=locations.local_tier(tier, tier_size))


def own_home(home: str | None) -> locations.Location:
    """The home alone, without those that are read beside it and without a tier: what is looked after."""
    return locations.home(home).layers[0].used(tier=None)


def _use_plugins(files: list[str] | None) -> list[str] | None:
    if files:
        plugins.use(files)
    return files


Plugin = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        callback=_use_plugins,
        help="Python file that adds backbones, datasets, tasks or readouts. It is run. Repeatable. Default: those of "
        "$DEAPCACHE_PLUGINS.",
    ),
]


def results_home(given: str | None, home: locations.Location) -> locations.Location:
    """Where results of caches in ``home`` go; raises :class:`UsageError` where they would go to a web server."""
    place = locations.locate(given) if given else home
    if not given and isinstance(home.layers[0], locations.WebLocation):
        place = locations.home()
    if isinstance(place.layers[0], locations.WebLocation):
        raise UsageError(
            f"{place} is a web server, which is read only: say where results and readouts go with --results-home PATH"
        )
    return place


def names(text: str | None) -> list[str]:
    """``a,b`` as a list without repetition; raises :class:`UsageError` for an empty entry."""
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{text!r} has an empty name between its commas: write names as a,b,c")
    return list(dict.fromkeys(parts))


def selection(
    *,
    task: str | None,
    dataset: str | None,
    backbone: str | None,
    readout: str | None,
    protocol: str | None,
    cache: str | None,
) -> Selection:
    """The results that ``--task`` … ``--cache`` choose; raises :class:`UsageError` for an empty name."""
    from deapcache.results import Selection

    return Selection(
        tasks=names(task),
        datasets=names(dataset),
        backbones=names(backbone),
        readouts=names(readout),
        protocols=names(protocol),
        caches=names(cache),
    )


def numbers(text: str, what: str) -> list[int]:
    """``0,1,2`` as integers; raises :class:`UsageError` for anything else."""
    try:
        return [int(part) for part in names(text)]
    except ValueError:
        raise UsageError(f"{what} {text!r}: expected whole numbers such as 0 or 0,1,2") from None


def rates(text: str, what: str) -> tuple[float, ...]:
    """``3e-4,1e-3`` as numbers; raises :class:`UsageError` for anything else."""
    try:
        return tuple(float(part) for part in names(text))
    except ValueError:
        raise UsageError(f"{what} {text!r}: expected numbers such as 1e-3 or 3e-4,1e-3") from None


def task_options(given: list[str], tasks: list[str]) -> dict[str, dict[str, str]]:
    """``["depth.crop=eigen"]`` as task → choice → value; raises :class:`UsageError` for another form or task."""
    chosen: dict[str, dict[str, str]] = {}
    for text in given:
        place, equals, value = text.partition("=")
        task, dot, name = place.partition(".")
        if not (equals and dot and name):
            raise UsageError(f"--task-option takes TASK.CHOICE=VALUE such as depth.crop=eigen, found {text!r}")
        if task not in tasks:
            raise UsageError(f"--task-option {text}: task {task!r} is not probed, --task names {', '.join(tasks)}")
        if chosen.setdefault(task, {}).setdefault(name, value) != value:
            raise UsageError(f"--task-option gives {task}.{name} twice: {chosen[task][name]} and {value}")
    return chosen


def fields(pairs: list[str]) -> dict[str, str]:
    """``["storage=float16"]`` as a mapping; raises :class:`UsageError` where the ``=`` is missing."""
    split = [pair.partition("=") for pair in pairs]
    for field, equals, _ in split:
        if not (field and equals):
            raise UsageError(f"--where takes FIELD=VALUE such as storage=float16, found {field!r}")
    given = [field for field, _, _ in split]
    if twice := next((field for field in given if given.count(field) > 1), None):
        raise UsageError(f"--where names {twice} twice: where each split has its own value, write {twice}=ONE,OTHER")
    return {field: value for field, _, value in split}
