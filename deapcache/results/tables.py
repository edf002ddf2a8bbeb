"""Results as tables of text: one for each task and dataset, on a terminal, in a file, in a Markdown page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from deapcache.recipe import SHORT
from deapcache.results.frame import Summary, layer_of, mixture, tokens_of
from deapcache.results.intervals import Interval, Uncertainty, UncertaintyOf
from deapcache.results.record import Result, plain_json
from deapcache.untrusted import printable

_GAP = "  "
LEFT = 2
"""Columns that are names; the others are numbers, and stand right."""


@dataclass(frozen=True)
class Block:
    """A table: what it shows, as text."""

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


def print_blocks(blocks: Sequence[Block], *, file: IO[str] | None = None) -> None:
    """Print tables: in colour on a terminal, else as plain text that is never wrapped or cut."""
    console = Console(file=file, highlight=False, emoji=False)
    for block in blocks:
        if console.is_terminal:
            console.print(rich_table(block))
            for note in block.notes:
                console.print(note, style="dim", markup=False)
            console.print()
        else:
            console.file.write(plain_text(block) + "\n")


def rich_table(block: Block) -> Table:
    """The block as a rich table, without its notes."""
    # as Text: what stands in brackets, such as a unit, is no markup
    table = Table(title=Text(block.title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, name in enumerate(block.header):
        side: JustifyMethod = "left" if place < LEFT else "right"
        table.add_column(Text(name), justify=side, vertical="bottom", header_style="bold", overflow="fold")
    for place, row in enumerate(block.rows):
        table.add_row(*map(Text, row), style="dim" if place in block.faint else None)
    return table


def plain_text(block: Block) -> str:
    """The block as aligned text, with its notes."""
    lines = [line for line in (*_header_lines(block), *block.rows) if line]
    widths = [max(len(line[place]) for line in lines) for place in range(len(block.header))]

    def aligned(line: tuple[str, ...]) -> str:
        cells = [
            text.ljust(w) if place < LEFT else text.rjust(w)
            for place, (text, w) in enumerate(zip(line, widths, strict=True))
        ]
        return _GAP.join(cells).rstrip()

    return "\n".join([block.title, *(aligned(line) for line in lines), *block.notes, ""])


def _header_lines(block: Block) -> list[tuple[str, ...]]:
    """The header from top to bottom, its last lines beside each other."""
    parts = [name.split("\n")[::-1] for name in block.header]
    return list(itertools.zip_longest(*parts, fillvalue=""))[::-1]


def markdown(block: Block) -> str:
    """The block as a Markdown section with a table, its notes as a list."""
    rule = ["---" if place < LEFT else "---:" for place in range(len(block.header))]
    lines = [f"| {' | '.join(map(_escaped, cells))} |" for cells in (block.header, rule, *block.rows)]
    notes = [f"* {_escaped(note.strip())}" for note in block.notes]
    return "\n".join([f"### {_escaped(block.title)}", "", *lines, "", *notes, ""])


def _escaped(text: str) -> str:
    return text.replace("\n", " ").replace("|", r"\|").replace("*", r"\*").replace("_", r"\_").replace("<", "&lt;")


NOTHING = "–"

TRAIN_TIME = "train [ms/image]"

_COST = {"train_ms_per_image": (TRAIN_TIME, 1), "backward_bytes_per_image": ("memory [MB/image]", 1e6)}
"""What of a result's ``cost`` a table shows: title, and its unit in that of the result."""


def heading(metric: Mapping[str, Any]) -> str:
    """``CE [nats] ↓`` from a result's description of a metric."""
    unit = f" [{metric['unit']}]" if metric["unit"] else ""
    return f"{metric['label']}{unit} {'↑' if metric['higher_is_better'] else '↓'}"


def score(mean: float, spread: float = math.nan) -> str:
    """``0.6000 ± 0.1414``; a dash where there is no score."""
    if math.isnan(mean):
        return NOTHING
    return f"{mean:.4f}" if math.isnan(spread) else f"{mean:.4f} ± {spread:.4f}"


def interval(found: Interval | None) -> str:
    """``0.5810–0.6190``; a dash where there is none."""
    if found is None or math.isnan(found[0]):
        return NOTHING
    return f"{found[0]:.4f}–{found[1]:.4f}"


def cost_columns(summaries: Sequence[Summary]) -> Iterator[tuple[str, ...]]:
    """Time and memory of training each readout: header, a cell for each, one left empty; nothing where none has any."""
    for name, (title, unit) in _COST.items():
        if any(name in summary.cost for summary in summaries):
            yield title, *(_cost(summary, name, unit) for summary in summaries), ""


def train_time(summary: Summary) -> str:
    """Milliseconds an image of one training step of the readout alone; a dash where it was not measured."""
    return _cost(summary, "train_ms_per_image", 1)


def _cost(summary: Summary, name: str, unit: float) -> str:
    return f"{summary.cost[name] / unit:.3g}" if name in summary.cost else NOTHING


PRIOR_ROW = "image-independent prior"

_NAMED = 10
"""Images left out that are named beneath a table."""


def make_blocks(summaries: Sequence[Summary], *, uncertainty: UncertaintyOf | None = None) -> list[Block]:
    """One block for each task, dataset and conditions, in the order of ``summaries``.

    Mixed results (``summarise(..., allow_mixed=True)``) so stand in blocks of their own, never beside each other, and
    the notes say in what they differ. ``uncertainty`` adds the 95% interval of the main metric.
    """
    groups: dict[tuple[str, str, str], list[Summary]] = {}
    for summary in summaries:
        groups.setdefault((summary.task, summary.dataset, summary.conditions), []).append(summary)
    return [
        _block(f"{task} · {dataset}", group, uncertainty, mixture(group, summaries))
        for (task, dataset, _), group in groups.items()
    ]


def print_tables(
    summaries: Sequence[Summary], *, file: IO[str] | None = None, uncertainty: UncertaintyOf | None = None
) -> None:
    """Print a table for each task: in colour on a terminal, else as plain text that is never wrapped or cut."""
    print_blocks(make_blocks(summaries, uncertainty=uncertainty), file=file)


def tables_json(summaries: Sequence[Summary], *, uncertainty: UncertaintyOf | None = None) -> list[dict[str, Any]]:
    """The rows of all tables as JSON objects, in the order of ``summaries``."""
    return [_row_json(summary, uncertainty) for summary in summaries]


def _row_json(summary: Summary, uncertainty: UncertaintyOf | None) -> dict[str, Any]:
    first = summary.first
    known = uncertainty(summary) if uncertainty else None
    row = {
        **{name: getattr(summary, name) for name in ("task", "dataset", "backbone", "readout", "lr")},
        **{name: getattr(summary, name) for name in ("protocol_digest", "conditions", "seeds", "mean", "spread")},
        "layer": layer_of(first),
        "tokens": tokens_of(first),
        "runs": [result.run for result in summary.results],
        "metrics": first.metrics,
        "main_metric": first.main_metric,
        "prior": first.prior,
        "parameters": first.parameters,
        "cost": summary.cost,
        "train_images": first.train_images,
        "val_images": first.val_images,
    }
    if known is not None:
        row |= {"intervals": known.intervals, "problem": known.problem}
    return dict(plain_json(row))


def _block(title: str, summaries: Sequence[Summary], uncertainty: UncertaintyOf | None, mixed: Sequence[str]) -> Block:
    known = [uncertainty(summary) for summary in summaries] if uncertainty else []
    header, *rows = zip(*_columns(summaries, known), strict=True)
    notes = list(mixed)
    if known:
        notes.append("95% interval: of the mean over seeds, bootstrap over the val images")
        notes += dict.fromkeys(f"no interval: {one.problem}" for one in known if one.problem)
    return Block(title, header, tuple(rows), (*notes, *_run_notes(summaries)), frozenset([len(summaries)]))


def _columns(summaries: Sequence[Summary], known: Sequence[Uncertainty]) -> Iterator[tuple[str, ...]]:
    """Header, a cell for each summary, and one for the prior."""
    first = summaries[0].first
    yield "backbone", *(summary.label for summary in summaries), PRIOR_ROW
    yield "readout", *_told_apart(summaries), ""
    if len({summary.lr for summary in summaries}) > 1:
        yield "lr", *(f"{summary.lr:g}" for summary in summaries), ""
    for name, metric in first.metrics.items():
        scores = (score(summary.mean[name], summary.spread[name]) for summary in summaries)
        yield heading(metric), *scores, score(first.prior[name])
        if known and name == first.main_metric:
            yield "95% interval", *(interval(one.intervals.get(name)) for one in known), ""
    yield "seeds", *(str(len(summary.seeds)) for summary in summaries), ""
    yield "parameters", *(f"{summary.first.parameters:,}" for summary in summaries), "0"
    yield from cost_columns(summaries)


def _told_apart(summaries: Sequence[Summary]) -> list[str]:
    """A name for the readout of each row, numbered where mixed results share one."""
    keys = [(summary.label, summary.readout, summary.lr) for summary in summaries]
    numbers = [keys[: place + 1].count(key) for place, key in enumerate(keys)]
    return [
        f"{key[1]} ({number})" if keys.count(key) > 1 else key[1] for key, number in zip(keys, numbers, strict=True)
    ]


def _run_notes(summaries: Sequence[Summary]) -> Iterator[str]:
    """Protocols, seeds, images, forwards and caches behind a table."""
    results = [result for summary in summaries for result in summary.results]
    protocols: dict[str, list[str]] = {}
    for summary in summaries:
        protocols.setdefault(summary.protocol_digest[:SHORT], []).append(summary.readout)
    named = ", ".join(f"{digest} ({', '.join(dict.fromkeys(readouts))})" for digest, readouts in protocols.items())
    caches = dict.fromkeys(cache["path"] for result in results for cache in result.caches.values())
    spread = "; ± is the sample standard deviation over seeds" if any(len(s.seeds) > 1 for s in summaries) else ""
    seeds = ", ".join(str(seed) for seed in sorted({seed for summary in summaries for seed in summary.seeds}))
    first = results[0]
    yield f"protocol: {named}"
    yield f"seeds: {seeds}{spread}"
    yield f"images: {first.train_images:,} train, {first.val_images:,} val"
    yield from dict.fromkeys(note for result in results for note in _left_out(result))
    if any(summary.cost for summary in summaries):
        devices = ", ".join(sorted({result.device for result in results if result.cost}))
        yield f"time and memory of a training step: of the readout alone, measured on {devices}"
    yield f"backbone forwards: {sum(result.backbone_forwards for result in results)}"
    yield "caches:"
    yield from (f"  {path}" for path in caches)


def _left_out(result: Result) -> Iterator[str]:
    """Of each split the images that could not be read when its caches were made."""
    for name, cache in result.caches.items():
        if omitted := cache["recipe"].get("omitted"):
            count, ids = omitted["images"], omitted["ids"][:_NAMED]
            more = f" and {count - len(ids):,} more" if count > len(ids) else ""
            yield f"left out of {name.split()[0]}, not readable when extracted: {count:,} ({', '.join(ids)}{more})"
