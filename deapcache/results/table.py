"""Results as tables, for a terminal and for a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from deapcache.recipe import SHORT
from deapcache.results.aggregate import Summary

PRIOR_ROW = "image-independent prior"

_GAP = "  "


@dataclass(frozen=True)
class Block:
    """One task on one dataset: what a table shows, as text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """The readouts; the last row is the prior."""
    notes: tuple[str, ...]
    """What stands beneath: protocols, caches, backbone forwards."""


def make_blocks(summaries: Sequence[Summary]) -> list[Block]:
    """One block for each task, dataset and conditions, in the order of ``summaries``.

    Mixed results (``summarise(..., allow_mixed=True)``) so stand in blocks of their own, never beside each other.
    """
    groups: dict[tuple[str, str, str], list[Summary]] = {}
    for summary in summaries:
        groups.setdefault((summary.task, summary.dataset, summary.conditions), []).append(summary)
    return [_block(task, dataset, group) for (task, dataset, _), group in groups.items()]


def print_tables(summaries: Sequence[Summary], *, file: IO[str] | None = None) -> None:
    """Print a table for each task: in colour on a terminal, else as plain text that is never wrapped or cut."""
    console = Console(file=file, highlight=False)
    for block in make_blocks(summaries):
        if console.is_terminal:
            console.print(rich_table(block))
            for note in block.notes:
                console.print(note, style="dim", markup=False)
            console.print()
        else:
            console.file.write(plain_text(block) + "\n")


def rich_table(block: Block) -> Table:
    """The block as a rich table, without its notes."""
    table = Table(title=block.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, name in enumerate(block.header):
        table.add_column(name, justify="left" if place < 2 else "right", header_style="bold", overflow="fold")
    for row in block.rows[:-1]:
        table.add_row(*row)
    table.add_row(*block.rows[-1], style="dim")
    return table


def plain_text(block: Block) -> str:
    """The block as aligned text, with its notes."""
    lines = [block.header, *block.rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(block.header))]

    def aligned(line: tuple[str, ...]) -> str:
        cells = [
            text.ljust(w) if place < 2 else text.rjust(w)
            for place, (text, w) in enumerate(zip(line, widths, strict=True))
        ]
        return _GAP.join(cells).rstrip()

    return "\n".join([block.title, *(aligned(line) for line in lines), *block.notes, ""])


def _block(task: str, dataset: str, summaries: Sequence[Summary]) -> Block:
    metrics = summaries[0].first.metrics
    header = ("backbone", "readout", *(_heading(metric) for metric in metrics.values()), "seeds", "parameters")
    rows = [
        (
            summary.backbone,
            summary.readout,
            *(_score(summary.mean[name], summary.spread[name]) for name in metrics),
            str(len(summary.seeds)),
            f"{summary.first.parameters:,}",
        )
        for summary in summaries
    ]
    prior = (PRIOR_ROW, "", *(_score(summaries[0].first.prior[name]) for name in metrics), "", "0")
    return Block(f"{task} · {dataset}", header, (*rows, prior), tuple(_notes(summaries)))


def _heading(metric: Mapping[str, Any]) -> str:
    unit = f" [{metric['unit']}]" if metric["unit"] else ""
    return f"{metric['label']}{unit} {'↑' if metric['higher_is_better'] else '↓'}"


def _score(mean: float, spread: float = math.nan) -> str:
    if math.isnan(mean):
        return "–"
    return f"{mean:.4f}" if math.isnan(spread) else f"{mean:.4f} ± {spread:.4f}"


def _notes(summaries: Sequence[Summary]) -> list[str]:
    results = [result for summary in summaries for result in summary.results]
    protocols: dict[str, list[str]] = {}
    for summary in summaries:
        protocols.setdefault(summary.protocol_digest[:SHORT], []).append(summary.readout)
    named = ", ".join(f"{digest} ({', '.join(dict.fromkeys(readouts))})" for digest, readouts in protocols.items())
    caches = dict.fromkeys(cache["path"] for result in results for cache in result.caches.values())
    spread = "; ± is the sample standard deviation over seeds" if any(len(s.seeds) > 1 for s in summaries) else ""
    first = results[0]
    return [
        f"protocol: {named}{spread}",
        f"images: {first.train_images:,} train, {first.val_images:,} val",
        f"backbone forwards: {sum(result.backbone_forwards for result in results)}",
        "caches:",
        *(f"  {path}" for path in caches),
    ]
