"""A table as text cells, and how it is shown: on a terminal, in a file, in a Markdown page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

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
