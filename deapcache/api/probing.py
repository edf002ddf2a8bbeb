"""``deapcache probe`` as a function, and results as a notebook wants them: runs that show their tables, data frames."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from deapcache import results
from deapcache.api.features import Home, home_of
from deapcache.errors import UsageError, did_you_mean
from deapcache.locations import Location
from deapcache.results import Result, Table, make_tables, plain_text, results_frame, table_rows
from deapcache.results.frame import PUBLIC_COLUMNS
from deapcache.results.tables import LEFT

if TYPE_CHECKING:
    import pandas as pd

    from deapcache.experiments import Report
    from deapcache.probing import ProbeConfig

T = TypeVar("T")


_PLURAL = {
    "backbone": "backbones",
    "readout": "readouts",
    "seed": "seeds",
    "lr": "lrs",
    "views": "views",
    "layers": "layers",
}
"""Options that take one thing or several → the field of :class:`ProbeConfig`."""


def probe(
    task: str | Sequence[str] | ProbeConfig,
    *,
    home: Home = None,
    results_home: Home = None,
    train_limit: int | Sequence[int | None] | None = None,
    report: Report = lambda *_: None,
    **options: Any,
) -> Results:
    """Train dense readouts from cached features, score them, and save results, readouts and pictures.

    The ``options`` are those of ``deapcache probe``, whose help explains them: ``dataset``, ``backbone``, ``readout``,
    ``seed``, ``iterations``, ``protocol``, ``lr``, ``limit``, ``task_options`` and so on. What the command takes as
    ``a,b`` is a list here, and one thing may stand for a list of it. In their place a whole :class:`ProbeConfig` may be
    given as ``task``. ``train_limit`` is one or several numbers of training images, drawn as nested subsets (``None``
    in a list: all). ``report`` is called with the name of the pass and how far it has come.

    Raises what the command says: ``CacheMissError``, ``UsageError``, ``TrainingError`` and others; runs that are scored
    by then are saved, and :func:`load_results` has them. A picture that cannot be drawn is a warning.
    """
    from deapcache.experiments import probe as run
    from deapcache.probing import ProbeConfig

    config = task if isinstance(task, ProbeConfig) else _config(task, options)
    if config is task and options:
        raise UsageError(f"{', '.join(options)} is given beside a ProbeConfig, which has all options: put it there")
    caches = home_of(home)
    own = caches if results_home is None else home_of(results_home)
    given = {"home": home, "results_home": results_home, "train_limit": train_limit, **options}
    limits: Sequence[int | None] = _several(train_limit)
    done = list(
        run(caches, config, train_limits=limits, results_home=own, report=report, command=_command(task, given))
    )
    for one in done:
        if one.picture_problem:
            warnings.warn(f"no picture of {one.result.run}, which is saved: {one.picture_problem}", stacklevel=2)
    return Results([one.result for one in done], own)


def _config(task: str | Sequence[str], options: Mapping[str, Any]) -> ProbeConfig:
    """The options of ``deapcache probe`` as the library takes them; raises :class:`UsageError` for others."""
    from deapcache.extraction import choose_device
    from deapcache.probing import ProbeConfig

    known = {f.name for f in fields(ProbeConfig)} - {*_PLURAL.values(), "tasks"}
    known -= {"train_limit", "train_subset", "val_limit"}
    known |= {*_PLURAL, "limit"}
    if unknown := [name for name in options if name not in known]:
        hint = did_you_mean(unknown[0], known, n=1, cutoff=0.6)
        raise UsageError(
            f"probe has no option {unknown[0]!r}: {hint}{' ' if hint else ''}it has {', '.join(sorted(known))}"
        )
    chosen: dict[str, Any] = {
        _PLURAL.get(name, name): _several(value) if name in _PLURAL else value for name, value in options.items()
    }
    limit, device = chosen.pop("limit", None), chosen.pop("device", "auto")
    files = {name: Path(chosen.pop(name)) for name in ("upsampler", "data_root") if chosen.get(name) is not None}
    return ProbeConfig(
        tasks=_several(task),
        **(chosen | files),
        train_limit=limit,
        val_limit=limit,
        device=str(choose_device(device)),
    )


def _several(given: T | Sequence[T] | None) -> tuple[T, ...]:
    """One thing or several of it, as a tuple; a text is one thing, and ``None`` nothing."""
    if given is None:
        return ()
    return tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)


def _command(task: str | Sequence[str] | ProbeConfig, given: Mapping[str, Any]) -> list[str]:
    """The call as a command that repeats it, which results keep."""
    plain = {
        name: str(value) if isinstance(value, Location | os.PathLike) else value
        for name, value in given.items()
        if value is not None
    }
    arguments = ", ".join([repr(task), *(f"{name}={value!r}" for name, value in plain.items())])
    return ["python", "-c", f"import deapcache; deapcache.probe({arguments})"]


_MIXED = "mixed:"
"""How a note begins that says in what the rows of tables were measured differently."""


class Results(Sequence[Result]):
    """Some runs, by name; shown as tables of what was measured the same way, seeds averaged."""

    def __init__(self, runs: Iterable[Result], home: object) -> None:
        self._results = tuple(runs)
        self._home = home

    @overload
    def __getitem__(self, place: int) -> Result: ...
    @overload
    def __getitem__(self, place: slice) -> Results: ...
    def __getitem__(self, place: int | slice) -> Result | Results:
        if isinstance(place, slice):
            return Results(self._results[place], self._home)
        return self._results[place]

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return "\n".join([self._title(), "", *map(plain_text, self._blocks())]).rstrip()

    def _repr_html_(self) -> str:
        return "".join([f"<p>{escape(self._title())}</p>", *map(_block_html, self._blocks())])

    def to_frame(self, *, all_metrics: bool = False) -> pd.DataFrame:
        """A pandas data frame with a row for each run and its main metric, or for each run and metric.

        Columns: ``run``, ``task``, ``dataset``, ``backbone``, ``layer``, ``readout``, ``seed``, ``lr``, ``iterations``,
        ``metric``, ``score``, ``prior`` (the score of the best output that does not look at the image), ``unit``,
        ``higher_is_better``, ``parameters``, ``train_images``, ``val_images``, ``features`` (digest of the features
        scored), ``protocol`` (its digest), ``device``, ``date`` (UTC).
        """
        import pandas as pd

        frame = results_frame(self)
        frame = frame[frame["is_metric" if all_metrics else "is_main"].astype(bool)]
        frame = frame[list(PUBLIC_COLUMNS)].infer_objects().reset_index(drop=True)
        frame["date"] = pd.to_datetime(frame["date"], utc=True)
        return frame

    def _title(self) -> str:
        return f"{len(self)} result{'' if len(self) == 1 else 's'} in {self._home}"

    def _blocks(self) -> list[Table]:
        """The tables without their notes, but for those that forbid a comparison."""
        blocks = make_tables(table_rows(self._results, allow_mixed=True))
        return [replace(b, notes=tuple(note for note in b.notes if note.startswith(_MIXED))) for b in blocks]


def load_results(home: Home = None, runs: Iterable[str] | None = None) -> Results:
    """The results of a home, all or those of ``runs``, by run name; none where there are none.

    Raises :class:`ResultsError` that names a file that is not a result, or a run that is not there.
    """
    place = home_of(home)
    return Results(results.load_results(place, runs), place)


def _block_html(block: Table) -> str:
    """A table of results with its notes beneath, everything escaped."""
    head = _row_html(block.header, '<th scope="col"', "</th>")
    body = "".join(_row_html(row, "<td", "</td>") for row in block.rows)
    notes = "".join(f"<p>{escape(note)}</p>" for note in block.notes)
    return f"<table><caption>{escape(block.title)}</caption><thead>{head}</thead><tbody>{body}</tbody></table>{notes}"


def _row_html(cells: Sequence[str], begin: str, end: str) -> str:
    shown = (escape(cell).replace("\n", "<br>") for cell in cells)
    sides = ("left" if place < LEFT else "right" for place in range(len(cells)))
    joined = (f'{begin} style="text-align:{side}">{cell}{end}' for side, cell in zip(sides, shown, strict=True))
    return f"<tr>{''.join(joined)}</tr>"
