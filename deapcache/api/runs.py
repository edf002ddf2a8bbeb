"""Results as a notebook wants them: a sequence of runs that shows its tables and becomes a data frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from deapcache import results as kept
from deapcache.api.html import block_html
from deapcache.api.places import Home, home_of
from deapcache.errors import MissingPackageError
from deapcache.results import Block, Result, make_blocks, plain_text, summarise

if TYPE_CHECKING:
    import pandas as pd

_MIXED = "mixed:"
"""How a note begins that says in what the rows of tables were measured differently."""


class Results(Sequence[Result]):
    """Some runs, by name; shown as tables of what was measured the same way, seeds averaged."""

    def __init__(self, results: Iterable[Result], home: object) -> None:
        self._results = tuple(results)
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
        from html import escape

        return "".join([f"<p>{escape(self._title())}</p>", *map(block_html, self._blocks())])

    def to_frame(self, *, all_metrics: bool = False) -> pd.DataFrame:
        """A pandas data frame with a row for each run and its main metric, or for each run and metric.

        Columns: ``run``, ``task``, ``dataset``, ``backbone``, ``layer``, ``readout``, ``seed``, ``lr``, ``iterations``,
        ``metric``, ``score``, ``prior`` (the score of the best output that does not look at the image), ``unit``,
        ``higher_is_better``, ``parameters``, ``train_images``, ``val_images``, ``features`` (digest of the features
        scored), ``protocol`` (its digest), ``device``, ``date`` (UTC). Raises :class:`MissingPackageError` without
        pandas.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingPackageError(
                f"data frames need pandas, which cannot be imported here ({error}): pip install 'deapcache[pandas]'"
            ) from None
        rows = [row for result in self for row in _rows(result, all_metrics)]
        frame = pd.DataFrame(rows, columns=list(COLUMNS))
        frame["date"] = pd.to_datetime(frame["date"], utc=True)
        return frame

    def _title(self) -> str:
        return f"{len(self)} result{'' if len(self) == 1 else 's'} in {self._home}"

    def _blocks(self) -> list[Block]:
        """The tables without their notes, but for those that forbid a comparison."""
        blocks = make_blocks(summarise(self._results, allow_mixed=True))
        return [replace(b, notes=tuple(note for note in b.notes if note.startswith(_MIXED))) for b in blocks]


COLUMNS = (
    *("run", "task", "dataset", "backbone", "layer", "readout", "seed", "lr", "iterations"),
    *("metric", "score", "prior", "unit", "higher_is_better"),
    *("parameters", "train_images", "val_images", "features", "protocol", "device", "date"),
)
"""Of a data frame of results, in order."""


def load_results(home: Home = None, runs: Iterable[str] | None = None) -> Results:
    """The results of a home, all or those of ``runs``, by run name; none where there are none.

    Raises :class:`ResultsError` that names a file that is not a result, or a run that is not there.
    """
    place = home_of(home)
    return Results(kept.load_results(place, runs), place)


def _rows(result: Result, all_metrics: bool) -> Iterator[dict[str, Any]]:
    features = result.caches["val"]
    shared = {name: getattr(result, name) for name in COLUMNS if hasattr(result, name)}
    shared |= {
        "layer": features["recipe"].get("layer"),
        "features": features["digest"],
        "protocol": result.protocol_digest,
        "lr": result.protocol["optimiser"]["lr"],
        "iterations": result.protocol["iterations"],
    }
    for name in result.metrics if all_metrics else [result.main_metric]:
        about = result.metrics[name]
        yield {
            **shared,
            "metric": name,
            "score": result.scores[name],
            "prior": result.prior[name],
            "unit": about["unit"],
            "higher_is_better": about["higher_is_better"],
        }
