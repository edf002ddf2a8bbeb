"""The page's tables, as HTML that reads well without its script."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from deapcache.recipe import SHORT
from deapcache.results.leaderboard.bars import Scale, bar, scale_of
from deapcache.results.leaderboard.columns import millions, milliseconds
from deapcache.results.leaderboard.entries import PAPER, Board, Comparison, Entry, Line, Metric
from deapcache.results.leaderboard.page_speeds import cost_line, speed_cell, speed_legend
from deapcache.results.leaderboard.speeds import UNIT
from deapcache.results.tables import NOTHING

_LEGEND = (
    "darker: nearer to the best of its column, which is bold; ± standard deviation over (n) seeds; "
    "scores of different columns say nothing about each other"
)

_STEPS = 5
"""Shades of a board's cells."""


def board_section(board: Board, devices: Sequence[str]) -> str:
    """Backbones × tasks, with a shade for how good a score is among those of its column."""
    heads = [_head("Backbone"), _head("Readout", extra=True), _head("Category", extra=True)]
    heads += [_head("Parameters", "[M]", number=True, extra=True), _head("Features", "H×W×D", number=True, extra=True)]
    heads.append(_head("Speed", UNIT, number=True, extra=True))
    heads += [_task_head(comparison) for comparison in board.comparisons]
    rows = "\n".join(_line(line, board, devices) for line in board.lines)
    title = escape(f"Backbones × tasks: {board.title}")
    return f"""<section aria-labelledby="board-{board.key}">
<h2 id="board-{board.key}">{title}</h2>
{_table(f"board-{board.key}", "board", heads, rows)}
<ul class="notes"><li>{_LEGEND}</li>{speed_legend(devices)}</ul>
</section>"""


def comparison_section(comparison: Comparison, devices: Sequence[str]) -> str:
    """One task: every entry with a bar, its interval, all metrics and how it was measured."""
    scale = scale_of(comparison)
    others = [metric for metric in comparison.metrics if metric != comparison.main]
    main_first = "descending" if comparison.main.higher_is_better else "ascending"
    heads = [_head("Backbone"), _head("Readout", extra=True), _head("Category", extra=True)]
    heads.append(_head(comparison.main.label, _direction(comparison.main), number=True, sorted_as=main_first))
    heads += [_head(metric.label, _direction(metric), number=True, extra=True) for metric in others]
    heads += [_head("Seeds", number=True, extra=True), _head("Learnable", "[M]", number=True, extra=True)]
    heads += [_head("Training", "[ms/image]", number=True, extra=True), _head("Protocol", extra=True)]
    heads.append(_head("Date", extra=True))
    rows = "\n".join(_entry(entry, comparison, scale, others, devices) for entry in comparison.entries)
    notes = "".join(f"<li>{escape(note)}</li>" for note in _notes(comparison))
    key = f"task-{comparison.key}"
    return f"""<section aria-labelledby="{key}">
<h3 id="{key}">{escape(comparison.title)}</h3>
{_table(key, "task", heads, rows)}
<ul class="notes">{notes}</ul>
</section>"""


def _table(label: str, kind: str, heads: Sequence[str], rows: str) -> str:
    # a region that scrolls must be reachable by keyboard
    return f"""<div class="scroll" role="region" tabindex="0" aria-labelledby="{label}">
<table class="{kind}" aria-labelledby="{label}"><thead><tr>{"".join(heads)}</tr></thead>
<tbody>
{rows}
</tbody></table></div>"""


def _notes(comparison: Comparison) -> Iterator[str]:
    better = "longer bars are" if comparison.main.higher_is_better else "shorter bars are"
    prior = comparison.prior.get(comparison.main.name, math.nan)
    marked = "" if math.isnan(prior) else f"; dotted line: a prior that does not look at the image, {prior:.4f}"
    yield f"{better} better; whisker: 95% interval over images{marked}"
    yield from comparison.notes


def _head(
    label: str, unit: str = "", *, number: bool = False, extra: bool = False, sorted_as: str = "", key: str = ""
) -> str:
    css = " ".join(name for name, on in (("n", number), ("extra", extra)) if on)
    state = f' aria-sort="{sorted_as}"' if sorted_as else ""
    column = f' data-comparison="{key}"' if key else ""
    shown = f' <span class="unit">{escape(unit)}</span>' if unit else ""
    return f'<th scope="col" class="{css}"{state}{column}><button type="button">{escape(label)}{shown}</button></th>'


def _task_head(comparison: Comparison) -> str:
    label = " · ".join(filter(None, (comparison.task, comparison.told_apart)))
    return _head(label, str(comparison.main), number=True, key=comparison.key)


def _direction(metric: Metric) -> str:
    unit = f"[{metric.unit}] " if metric.unit else ""
    return f"{unit}{'↑' if metric.higher_is_better else '↓'}"


def _row(entry: Entry, cells: Sequence[str], title: str) -> str:
    told = [entry.backbone.label, entry.backbone.category, entry.name, entry.printed, entry.backbone.training_data]
    text = escape(" ".join([*told, title, entry.protocol]).lower())
    css = ' class="paper"' if entry.source == PAPER else ""
    return (
        f'<tr{css} data-category="{escape(entry.backbone.category)}" data-source="{entry.source}" '
        f'data-text="{text}">{"".join(cells)}</tr>'
    )


def _names(entry: Entry, origin: str, devices: Sequence[str], opened: str = "") -> Iterator[str]:
    name = escape(entry.backbone.name)
    shown = f'<button type="button" class="open" data-entry="{opened}">{name}</button>' if opened else name
    mark = f' <span class="mark">{escape(entry.backbone.reading)}</span>' if entry.backbone.reading else ""
    if entry.source == PAPER:
        mark += f' <span class="mark" title="{escape(origin)}">paper</span>'
    cost = cost_line(entry.backbone, entry.name, devices)
    yield f'<th scope="row" data-v="{escape(entry.backbone.label)}">{shown}{mark}{cost}</th>'
    yield f'<td class="extra" data-v="{escape(entry.name)}">{escape(entry.name)}</td>'
    category = escape(entry.backbone.category)
    yield f'<td class="extra" data-v="{category}"><span class="chip {category}">{category}</span></td>'


def _number(value: float | None, text: str, extra: bool = True) -> str:
    known = "" if value is None or math.isnan(value) else repr(float(value))
    return f'<td class="n{" extra" if extra else ""}" data-v="{known}">{escape(text)}</td>'


def _line(line: Line, board: Board, devices: Sequence[str]) -> str:
    backbone = line.first.backbone
    volume = math.prod(backbone.features) if backbone.features else None
    cells = [
        *_names(line.first, line.origin, devices),
        _number(backbone.parameters, millions(backbone.parameters, 1)),
        _number(volume, backbone.size or NOTHING),
        speed_cell(backbone, devices),
        *(_cell(line.cells.get(comparison.key), comparison) for comparison in board.comparisons),
    ]
    return _row(line.first, cells, board.title)


def _cell(entry: Entry | None, comparison: Comparison) -> str:
    if entry is None or comparison.main.name not in entry.scores:
        return f'<td class="n" data-v="">{NOTHING}</td>'
    score, values = entry.scores[comparison.main.name], comparison.values()
    shade, best = _shade(score.mean, values), bool(values) and score.mean == values[0] and len(values) > 1
    spread = "" if math.isnan(score.spread) else f"± {score.spread:.{score.decimals}f}"
    seeds = f"({len(entry.seeds)})" if entry.seeds else ""
    known = "" if math.isnan(score.mean) else repr(score.mean)
    text = NOTHING if not known else f"{score.mean:.{score.decimals}f}"
    return (
        f'<td class="n q{shade}{" best" if best else ""}" data-v="{known}" data-protocol="{escape(entry.protocol)}">'
        f'<button type="button" class="open" data-entry="{entry.key}">{text}'
        f"{'<span class=unseen>, the best</span>' if best else ''}</button>"
        f'<span class="spread">{" ".join(filter(None, (spread, seeds)))}</span></td>'
    )


def _shade(value: float, values: Sequence[float]) -> int:
    """0 for the worst of a column to 4 for the best, by the share of the way between them (the paper's Figure 3)."""
    if math.isnan(value) or len(values) < 2 or values[0] == values[-1]:
        return 0
    return round((_STEPS - 1) * (value - values[-1]) / (values[0] - values[-1]))


def _entry(entry: Entry, comparison: Comparison, scale: Scale, others: Sequence[Metric], devices: Sequence[str]) -> str:
    score = entry.scores.get(comparison.main.name)
    train = entry.cost("train_ms_per_image")
    mean = math.nan if score is None else score.mean
    known = "" if math.isnan(mean) else repr(mean)
    drawn = "" if score is None or not known else bar(score, scale)
    measured = [
        f'<td class="n score" data-v="{known}"><span>{escape(str(score)) if score else NOTHING}</span>{drawn}</td>',
        *(_metric(entry, metric) for metric in others),
        _number(len(entry.seeds) or None, ", ".join(map(str, entry.seeds)) or NOTHING),
        _number(entry.parameters, millions(entry.parameters, 3)),
        _number(train, milliseconds(train)),
        f'<td class="extra" data-v="{escape(entry.protocol)}" data-protocol="{escape(entry.protocol)}">'
        f"<code>{escape(entry.protocol[:SHORT]) or NOTHING}</code></td>",
        f'<td class="extra" data-v="{escape(entry.date)}">{escape(entry.date) or NOTHING}</td>',
    ]
    return _row(entry, [*_names(entry, entry.origin, devices, entry.key), *measured], comparison.title)


def _metric(entry: Entry, metric: Metric) -> str:
    score = entry.scores.get(metric.name)
    return _number(score.mean if score else None, str(score) if score else NOTHING)
