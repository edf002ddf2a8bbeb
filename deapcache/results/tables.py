"""Results as tables of text: one for each task and dataset, on a terminal, in a file, in a Markdown page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from deapcache.results.frame import (
    grouped,
    is_subset,
    layer_of,
    protocol_mismatches,
    protocols_of,
    rate_note,
    seeds_of,
    tokens_of,
)
from deapcache.results.intervals import Difference, Interval
from deapcache.results.marks import legend
from deapcache.results.record import Result, plain_json
from deapcache.untrusted import printable

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table as RichTable

LEFT = 2
"""Columns that are names; the others are numbers, and stand right."""

NOTHING = "–"
PRIOR_ROW = "image-independent prior"
OVER_PRIOR = "score − prior"
CHOSEN_RATE = "lr (of, range)"
"""Head of the frame's ``rate``."""
MARKS = "marks"
TRAIN_TIME = "train [ms/image]"

_COST = {"train_ms_per_image": (TRAIN_TIME, 1), "backward_bytes_per_image": ("memory [MB/image]", 1e6)}
"""What of a result's ``cost`` a table shows: title, and its unit in that of the result."""
_NAMED = 10
"""Images left out that are named beneath a table."""


@dataclass(frozen=True)
class Table:
    """What a table shows, as text."""

    title: str
    header: tuple[str, ...]
    """May have several lines each."""
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    """What stands beneath: protocols, seeds, caches, backbone forwards."""
    faint: frozenset[int] = frozenset()
    """Rows that are there to compare with: the prior, the paper's numbers."""

    def __post_init__(self) -> None:
        # every table passes here, and names in it may be a stranger's
        object.__setattr__(self, "title", _one_line(self.title))
        object.__setattr__(self, "header", tuple(map(printable, self.header)))
        object.__setattr__(self, "rows", tuple(tuple(map(_one_line, row)) for row in self.rows))
        object.__setattr__(self, "notes", tuple(map(printable, self.notes)))


def _one_line(text: str) -> str:
    return printable(text).replace("\n", " ")


def make_tables(rows: DataFrame) -> list[Table]:
    """One table for each task, dataset and comparison key of :func:`deapcache.results.table_rows`, in their order.

    Mixed results so stand in tables of their own, never beside each other, and the notes say in what they differ. Where
    the rows have an ``uncertainty`` the 95% interval of the main metric stands beside it.
    """
    groups = rows.groupby(["task", "dataset", "comparison_key"], sort=False)
    return [_table(f"{task} · {dataset}", lines, rows) for (task, dataset, _), lines in groups]


def _table(title: str, lines: DataFrame, every: DataFrame) -> Table:
    rows = lines.drop_duplicates("row")
    header, *cells = zip(*_columns(lines, rows), strict=True)
    notes = protocol_mismatches(rows, every)
    if known := [one for one in rows["uncertainty"] if one]:
        over = f"over {known[0].over}; of score − prior paired, over the same images"
        notes.append(f"95% interval: of the mean over seeds, {over}")
        notes += dict.fromkeys(f"no interval: {one.problem}" for one in known if one.problem)
    notes += rate_note(rows["results"])
    notes += legend(rows["marks"])
    return Table(title, header, tuple(cells), (*notes, *_run_notes(rows)), frozenset([len(rows)]))


def _columns(lines: DataFrame, rows: DataFrame) -> Iterator[tuple[str, ...]]:
    """Header, a cell for each of ``rows``, and one for the prior; ``lines`` has their scores."""
    first: Result = rows["result"].iloc[0]
    yield "backbone", *rows["display_name"], PRIOR_ROW
    names = rows.groupby(["display_name", "readout", "lr_text", "left_out"], sort=False)["readout"]
    numbers = zip(rows["readout"], names.cumcount() + 1, names.transform("size"), strict=True)
    yield "readout", *(f"{name} ({number})" if rivals > 1 else name for name, number, rivals in numbers), ""
    if any(result.is_selected for result in rows["result"]):
        yield CHOSEN_RATE, *rows["rate"], ""
    elif rows["lr_text"].nunique() > 1:
        yield "lr", *(NOTHING if math.isnan(lr) else f"{lr:g}" for lr in rows["lr"]), ""
    if rows["train_images"].nunique() > 1:
        yield "train images", *(f"{count:,}" for count in rows["train_images"]), ""
    for metric, about in first.metrics.items():
        of_metric = lines[lines["metric"] == metric].set_index("row").reindex(rows["row"])
        yield heading(about), *map(score, of_metric["mean"], of_metric["spread"]), score(first.prior[metric])
        if metric == first.main_metric and any(rows["marks"]):
            yield MARKS, *rows["marks"], ""
        if metric == first.main_metric and rows["uncertainty"].notna().any():
            yield "95% interval", *map(interval, of_metric["interval"]), ""
            yield f"{OVER_PRIOR} [95% interval]", *map(difference, of_metric["difference"]), ""
    yield "seeds", *(str(len(seeds)) for seeds in rows["seeds"]), ""
    yield "parameters", *(f"{count:,}" for count in rows["parameters"]), "0"
    for name, (title, unit) in _COST.items():
        if any(name in cost for cost in rows["cost"]):
            yield title, *(three_digits(cost[name] / unit if name in cost else None) for cost in rows["cost"]), ""


def _run_notes(rows: DataFrame) -> Iterator[str]:
    """Protocols, seeds, images, forwards and caches behind a table."""
    results: list[Result] = [result for runs in rows["results"] for result in runs]
    caches = dict.fromkeys(cache["path"] for result in results for cache in result.caches.values())
    several = any(len(seeds) > 1 for seeds in rows["seeds"])
    yield f"protocol: {protocols_of(rows.itertuples())}"
    yield f"seeds: {seeds_of(rows.itertuples())}{'; ± is the sample standard deviation over seeds' if several else ''}"
    if any("@untrained:" in name and "," in name for name in rows["backbone"]):
        yield "NAME@untrained:1,2: mean over random weights of these seeds; ± is over them"
    yield f"images: {max(rows['train_images']):,} train, {results[0].val_images:,} val"
    if any(map(is_subset, results)):
        yield "train images: nested subsets; the prior is that of the first row"
    left_out: dict[str, None] = {}
    for name, cache in ((name, cache) for result in results for name, cache in result.caches.items()):
        if omitted := cache["recipe"].get("omitted"):
            count, ids = omitted["images"], omitted["ids"][:_NAMED]
            more = f" and {count - len(ids):,} more" if count > len(ids) else ""
            said = f"left out of {name.split()[0]}, not readable when extracted: {count:,} ({', '.join(ids)}{more})"
            left_out[said] = None
    yield from left_out
    if any(rows["cost"]):
        devices = ", ".join(sorted({result.device for result in results if result.cost}))
        yield f"time and memory of a training step: of the readout alone, measured on {devices}"
    yield f"backbone forwards: {sum(result.backbone_forwards for result in results)}"
    yield "caches:"
    yield from (f"  {path}" for path in caches)


def tables_json(rows: DataFrame) -> list[dict[str, Any]]:
    """The rows of all tables as JSON objects, in order."""
    return [_row_json(lines) for lines in grouped(rows.itertuples(), "row")]


def _row_json(lines: Sequence[Any]) -> dict[str, Any]:
    scores, line = {one.metric: one for one in lines}, lines[0]
    first: Result = line.result
    row = {
        **{name: getattr(line, name) for name in ("task", "dataset", "backbone", "readout", "lr")},
        "protocol_digest": line.protocol,
        "conditions": line.comparison_key,
        "seeds": line.seeds,
        "mean": {metric: scores[metric].mean for metric in first.scores},
        "spread": {metric: scores[metric].spread for metric in first.scores},
        "layer": layer_of(first),
        "tokens": tokens_of(first),
        "runs": [result.run for result in line.results],
        "metrics": first.metrics,
        "main_metric": first.main_metric,
        "prior": first.prior,
        "parameters": first.parameters,
        "cost": line.cost,
        "marks": line.marks,
        "protocol_name": first.protocol.get("name", ""),
        "selection": first.selection,
        "features": first.features,
        "train_images": first.train_images,
        "val_images": first.val_images,
    }
    if line.uncertainty is not None:
        row |= {"intervals": line.uncertainty.intervals, "problem": line.uncertainty.problem}
        row["over_prior"] = {metric: difference_json(one) for metric, one in scores.items()}
    return dict(plain_json(row))


def difference_json(line: Any) -> dict[str, Any] | None:
    """The difference of a score and the prior's; ``None`` where it is not known."""
    if line.difference is None:
        return None
    return {**line.difference._asdict(), "p_holm": line.p_holm}


def heading(metric: Mapping[str, Any]) -> str:
    """``CE [nats] ↓`` from a result's description of a metric."""
    unit = f" [{metric['unit']}]" if metric["unit"] else ""
    return f"{metric['label']}{unit} {'↑' if metric['higher_is_better'] else '↓'}"


def score(mean: float, spread: float = math.nan, decimals: int = 4) -> str:
    """``0.6000 ± 0.1414``; a dash where there is no score."""
    if math.isnan(mean):
        return NOTHING
    return f"{mean:.{decimals}f}" if math.isnan(spread) else f"{mean:.{decimals}f} ± {spread:.{decimals}f}"


def interval(found: Interval | None) -> str:
    """``0.5810–0.6190``; a dash where there is none."""
    if found is None or math.isnan(found[0]):
        return NOTHING
    return f"{found[0]:.4f}–{found[1]:.4f}"


def difference(found: Difference | None) -> str:
    """``+0.1834 [+0.1500, +0.2120]``; a dash where it is not known."""
    if found is None or math.isnan(found.value):
        return NOTHING
    low, high = found.interval
    return f"{found.value:+.4f}" if math.isnan(low) or low == high else f"{found.value:+.4f} [{low:+.4f}, {high:+.4f}]"


def millions(count: float | None, decimals: int) -> str:
    """``85.8`` from a count; a dash where it is not known."""
    return NOTHING if count is None else f"{count / 1e6:.{decimals}f}"


def three_digits(value: float | None) -> str:
    """``0.333``; a dash where it was not measured."""
    return NOTHING if value is None else f"{value:.3g}"


def print_tables(tables: Sequence[Table], *, file: IO[str] | None = None) -> None:
    """Print tables: in colour on a terminal, else as plain text that is never wrapped or cut."""
    from rich.console import Console

    console = Console(file=file, highlight=False, emoji=False)
    for table in tables:
        if console.is_terminal:
            console.print(rich_table(table))
            for note in table.notes:
                console.print(note, style="dim", markup=False)
            console.print()
        else:
            console.file.write(plain_text(table) + "\n")


def rich_table(table: Table) -> RichTable:
    """The table as rich has it, without its notes."""
    from rich.table import Table as RichTable
    from rich.text import Text

    # as Text: what stands in brackets, such as a unit, is no markup
    made = RichTable(title=Text(table.title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, name in enumerate(table.header):
        side = "left" if place < LEFT else "right"
        made.add_column(Text(name), justify=side, vertical="bottom", header_style="bold", overflow="fold")  # type: ignore[arg-type]
    for place, row in enumerate(table.rows):
        made.add_row(*map(Text, row), style="dim" if place in table.faint else None)
    return made


def plain_text(table: Table) -> str:
    """The table as aligned text, with its notes."""
    # the header from top to bottom, its last lines beside each other
    parts = [name.split("\n")[::-1] for name in table.header]
    lines = [*reversed(list(itertools.zip_longest(*parts, fillvalue=""))), *table.rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(table.header))]

    def aligned(line: tuple[str, ...]) -> str:
        cells = [
            text.ljust(w) if place < LEFT else text.rjust(w)
            for place, (text, w) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([table.title, *(aligned(line) for line in lines if line), *table.notes, ""])


def _escaped(text: str) -> str:
    return text.replace("\n", " ").replace("|", r"\|").replace("*", r"\*").replace("_", r"\_").replace("<", "&lt;")


def markdown(
    table: Table,
    *,
    level: int = 3,
    names: int = LEFT,
    escape: Callable[[str], str] = _escaped,
    links: Sequence[str] = (),
) -> str:
    """The table as a Markdown section, its notes as a list.

    ``level`` is the heading's; the first ``names`` columns stand left; ``links``, Markdown, are a last column.
    """
    head = [*map(escape, table.header), *(["details"] if links else [])]
    rule = ["---" if place < names else "---:" for place in range(len(head))]
    rows = [[*map(escape, row), *links[place : place + 1]] for place, row in enumerate(table.rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
    notes = [f"* {escape(note.strip())}" for note in table.notes]
    return "\n".join([f"{'#' * level} {escape(table.title)}", "", *lines, "", *notes, ""])
