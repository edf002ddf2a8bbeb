"""How command lines are read: options that several verbs share, groups of them, and what their values mean."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from deapcache import locations, plugins
from deapcache.cli.console import note, remember
from deapcache.errors import ReadOnlyError, UsageError
from deapcache.regions import Size, parse_size

if TYPE_CHECKING:
    from deapcache.extraction import Cluster
    from deapcache.results import Selection


class App(typer.Typer):
    """A group of commands that refuse empty values; a parameter that is a dataclass stands for that dataclass's fields.

    Each field is an option or argument like any other parameter; Typer sees them in the place of the dataclass.
    """

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Add a command, as Typer's own."""
        register = super().command(name, **{"cls": _Command, **settings})

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            register(_flatten(function))
            return function

        return add


def _flatten(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as Typer can read it: with the fields of dataclasses as its own parameters."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        group = groups.get(parameter.name)
        types = hints if group is None else get_type_hints(group, include_extras=True)
        members = [parameter] if group is None else inspect.signature(group).parameters.values()
        parameters += [
            each.replace(annotation=types[each.name], kind=inspect.Parameter.KEYWORD_ONLY) for each in members
        ]

    @functools.wraps(function)
    def call(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(**{field: values.pop(field) for field in inspect.signature(group).parameters})
        return function(**values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


class _Command(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # Before Typer looks at the values: to it, and to a path, an empty one is as good as none.
        found, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.params:
            given = found.get(parameter.name or "")
            for value in given if isinstance(given, list | tuple) else [given]:
                if isinstance(value, str) and not value.strip():
                    raise UsageError(_is_empty(parameter))
        given_by_option = {opt: found.get(each.name or "") for each in self.params for opt in each.opts}
        remember(ctx.find_root().command, given_by_option)
        return super().parse_args(ctx, args)


def _is_empty(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
        return f"the argument {name} is empty: is a variable of the shell not set?"
    option = max(parameter.opts, key=len)
    return f"{option} is empty: give a value, or leave the option out; is a variable of the shell not set?"


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
Intervals = Annotated[bool, typer.Option("--intervals/--no-intervals", help="95% intervals over images, by bootstrap.")]
OverSeeds = Annotated[
    bool, typer.Option("--over-seeds", help="Intervals over images and seeds: what other seeds would give, too.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", help="Where datasets lie as downloaded. Default: $DEAPCACHE_DATA, then ./data."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Images in one forward. Default: 32 on a GPU, 8 on a CPU.")
]
Device = Annotated[str, typer.Option("--device", help="auto (a GPU where there is one), cpu, cuda, cuda:1, …")]


@dataclass(frozen=True)
class Caches:
    """Where caches are: the home, those that are read beside it, and the local tier."""

    home: Home = None
    read_home: ReadHomes = None
    local_tier: Annotated[
        Path | None,
        typer.Option(
            "--local-tier",
            help="Folder on a fast local disk that keeps shards read from elsewhere. Default: $DEAPCACHE_LOCAL_TIER.",
        ),
    ] = None
    local_tier_size: Annotated[
        str | None,
        typer.Option(
            "--local-tier-size", help="Most that the local tier may hold: 200GB. Default: $DEAPCACHE_LOCAL_TIER_SIZE."
        ),
    ] = None

    def location(self) -> locations.Location:
        """The home and the others as one; by default what the environment says."""
        return place(self.home, self.read_home, self.local_tier, self.local_tier_size)


@dataclass(frozen=True)
class ResultFilter:
    """Which results are shown."""

    task: Annotated[str | None, typer.Option("--task", help="Only results of these tasks: a,b.")] = None
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only on these datasets: a,b.")] = None
    backbone: Annotated[str | None, typer.Option("--backbone", help="Only of these backbones: a,b.")] = None
    readout: Annotated[str | None, typer.Option("--readout", help="Only of these readouts: a,b.")] = None
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", help="Only of these protocols, by name or first characters of the digest: a,b."),
    ] = None
    cache: Annotated[
        str | None, typer.Option("--cache", help="Only what has read one of these caches, by first characters: a,b.")
    ] = None

    def selection(self) -> Selection:
        """The results that are wanted; raises :class:`UsageError` for an empty name."""
        from deapcache.results import Selection

        return Selection(**{f"{each.name}s": names(getattr(self, each.name)) for each in fields(ResultFilter)})


@dataclass(frozen=True)
class Processes:
    """Who does the work: this process, others of this machine, or a cluster."""

    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            help="Processes on this machine, each with its GPU or its share of the cores. Default: one for each GPU "
            "where there are several, else none but this one.",
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", help="Address of a Dask cluster whose workers do the work: tcp://host:8786."),
    ] = None

    @contextmanager
    def cluster(self, device: str) -> Iterator[Cluster | None]:
        """The workers that are asked for; None where this process does the work itself."""
        from deapcache.extraction import default_workers, open_cluster

        if self.scheduler is not None and self.workers is not None:
            raise UsageError("--workers starts workers on this machine, --scheduler takes those of a cluster: give one")
        count = default_workers(device) if self.workers is None else self.workers
        if self.scheduler is None and self.workers is None and count == 0:
            yield None
            return
        with open_cluster(scheduler=self.scheduler, workers=count, device=device, say=note) as cluster:
            yield cluster


ImageSize = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        help="What the backbones see, in pixels: 512 or HEIGHTxWIDTH; the same as the name BACKBONE@512. Default: "
        "each one's own.",
    ),
]


def backbone_names(text: str | None, image_size: str | None) -> list[str]:
    """``a,b`` as names of backbones, at the image size where one is given."""
    from deapcache.backbones import at_size, parse_image_size

    size = parse_image_size(image_size) if image_size else None
    return [at_size(name, size) if size else name for name in names(text)]


def local_path(option: typer.CallbackParam, given: Path | None) -> Path | None:
    """Callback of options for what is written to this machine; raises :class:`UsageError` for an address."""
    return None if given is None else locations.local_path(given, what=option.opts[0])


def place(
    home: str | None, read_homes: list[str] | None = None, tier: Path | None = None, tier_size: str | None = None
) -> locations.Location:
    """The home and those that are read beside it, through the local tier; by default what the environment says."""
    return locations.home(home, read_homes=read_homes, tier=locations.local_tier(tier, tier_size))


def write_page(path: Path, text: str) -> None:
    """Write what ``--out`` asks for, and its folder; raises :class:`ReadOnlyError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReadOnlyError(f"{path} cannot be written: {error.strerror}; choose another --out") from None


def own_home(home: str | None) -> locations.Location:
    """The home alone, without those that are read beside it and without a tier: what is looked after."""
    return locations.home(home).layers[0].with_options(tier=None)


def note_agreed(home: locations.HomeDefaults, taken: Mapping[str, Any]) -> None:
    """Say which defaults of the home's ``deapcache.toml`` a command takes; ``taken``: fields of the settings."""
    if taken:
        shown = {"dtype" if field == "storage" else field: value for field, value in taken.items()}
        said = {field: ",".join(value) if isinstance(value, tuple) else value for field, value in shown.items()}
        note(f"of {home.place}: {', '.join(f'{field} = {value}' for field, value in said.items())}")


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


def _trust_code(trusted: bool) -> bool:
    if trusted:
        os.environ["DEAPCACHE_TRUST_REMOTE_CODE"] = "1"  # worker processes inherit it
    return trusted


TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        callback=_trust_code,
        help="Run the code that models of Hugging Face (hf:…) bring along. Read it first. Default: such are refused.",
    ),
]


def names(text: str | None) -> list[str]:
    """``a,b`` as a list without repetition; raises :class:`UsageError` for an empty entry.

    ``a@untrained:1,2`` is ``a@untrained:1`` and ``a@untrained:2``.
    """
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{text!r} has an empty name between its commas: write names as a,b,c")
    for place, part in enumerate(parts):
        if place and re.fullmatch(r"\d+(@\d+(x\d+)?)?", part) and "@untrained:" in parts[place - 1]:
            parts[place] = f"{parts[place - 1].rpartition('@untrained:')[0]}@untrained:{part}"
    return list(dict.fromkeys(parts))


def rates(text: str | None) -> tuple[float, ...]:
    """Learning rates, ``3e-4,1e-3``, as numbers; raises :class:`UsageError` for anything else."""
    try:
        return tuple(float(part) for part in names(text))
    except ValueError:
        raise UsageError(f"--lr {text!r}: expected numbers such as 1e-3 or 3e-4,1e-3") from None


_LARGEST = 4096
"""Pixels of an output's side: a slip of the finger must not take the machine's memory."""


def sizes(text: str | None) -> list[Size]:
    """``56,224,448x672`` as (height, width) each, without repetition; raises :class:`UsageError` for anything else."""
    found = []
    for part in () if text is None else text.split(","):
        size = parse_size(part.strip())
        if size is None or max(size) > _LARGEST:
            raise UsageError(
                f"size {part.strip()!r}: expected a side (224) or HEIGHTxWIDTH (448x672), or several with commas, "
                f"each side from 1 to {_LARGEST} pixels"
            )
        found.append(size)
    return list(dict.fromkeys(found))
