"""HTML for notebooks: tables of text, everything escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from deapcache.results.blocks import LEFT, Block


def facts_html(title: str, facts: Iterable[tuple[str, str]]) -> str:
    """A table of names and values under a title."""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in facts
    )
    return f"<table><caption>{escape(title)}</caption><tbody>{rows}</tbody></table>"


def block_html(block: Block) -> str:
    """A table of results with its notes beneath."""
    head = _row(block.header, '<th scope="col"', "</th>")
    body = "".join(_row(row, "<td", "</td>") for row in block.rows)
    notes = "".join(f"<p>{escape(note)}</p>" for note in block.notes)
    return f"<table><caption>{escape(block.title)}</caption><thead>{head}</thead><tbody>{body}</tbody></table>{notes}"


def _row(cells: Sequence[str], begin: str, end: str) -> str:
    shown = (escape(cell).replace("\n", "<br>") for cell in cells)
    sides = ("left" if place < LEFT else "right" for place in range(len(cells)))
    joined = (f'{begin} style="text-align:{side}">{cell}{end}' for side, cell in zip(sides, shown, strict=True))
    return f"<tr>{''.join(joined)}</tr>"
