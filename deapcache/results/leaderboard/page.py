"""The leaderboard in each of its formats.

The HTML page needs nothing but itself: no network, and nothing of it runs what it shows.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from deapcache.errors import LocationError, UsageError
from deapcache.locations import Location
from deapcache.recipe import SHORT, digest_of
from deapcache.results.frame import CATEGORIES, grouped
from deapcache.results.leaderboard.board import (
    PAPER,
    SPEED_COMMAND,
    SPEED_UNIT,
    Leaderboard,
    comparison_notes,
    origin,
    relative_speed,
    score_text,
    volume,
)
from deapcache.results.leaderboard.reproduce import reproduce_commands
from deapcache.results.leaderboard.text import csv_text, leaderboard_tables, markdown_page
from deapcache.results.marks import legend
from deapcache.results.per_class import class_text, per_class
from deapcache.results.record import Result, picture_key, plain_json, result_key
from deapcache.results.tables import (
    NOTHING,
    OVER_PRIOR,
    difference,
    heading,
    interval,
    millions,
    plain_text,
    three_digits,
)
from deapcache.untrusted import printable

Format = Literal["table", "markdown", "csv", "html"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ENDING = {"table": "txt", "markdown": "md", "csv": "csv", "html": "html"}

_SHADES = 5
"""Of a board's cells."""
_POINTS = 300
"""Of a training curve that are drawn."""

_WIDEST, _HIGHEST = 1000, 3000
"""Of a picture in the page, pixels."""
_LARGEST_FILE = 30_000_000
_MOST_PIXELS = 40_000_000
_LARGEST = 250_000
"""Bytes of one picture in the page."""
BUDGET = 24_000_000
"""Bytes of all pictures in one page: what a phone opens."""


def file_name(format: str) -> str:
    """``leaderboard.html``; raises :class:`UsageError` for a format that there is not."""
    if format not in _ENDING:
        raise UsageError(f"--format {format}: expected one of {', '.join(FORMATS)}")
    return f"leaderboard.{_ENDING[format]}"


def rendered(board: Leaderboard, format: Format, *, beside: Path | None = None, with_classes: bool = False) -> str:
    """The leaderboard as text of that format; addresses of local results are relative to the folder ``beside``.

    ``with_classes`` adds the score of each class to a page.
    """
    if format == "table":
        text = "\n".join(map(plain_text, leaderboard_tables(board)))
    elif format == "markdown":
        text = markdown_page(board, beside)
    else:
        text = csv_text(board, beside) if format == "csv" else html_page(board, with_classes=with_classes)
    return printable(text)


def report_page(board: Leaderboard, facts: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page of :func:`html_page` for one comparison, with what it comes to above its tables.

    ``facts`` are those of :class:`deapcache.experiments.compare.Comparison`, as JSON values; ``pictures`` are PNGs of
    ``images`` and ``curve``, where there are any.
    """
    embedded = {n: _data_uri(_shrunk(pictures[n])) if n in pictures else "" for n in ("images", "curve")}
    return printable(html_page(board, report={**facts, "pictures": embedded}))


def html_page(board: Leaderboard, *, with_classes: bool = False, report: Mapping[str, Any] | None = None) -> str:
    """UTF-8 HTML; the panels' data is JSON in a script element that is not run, and everything else is escaped.

    A content security policy lets nothing load and only the page's own script and style act. ``with_classes`` adds the
    score of each class to each comparison, from the statistics of all runs.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deapcache.results.leaderboard", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # JSON that cannot end, or comment out, the script element it stands in: tojson escapes < > & '
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {
        "difference": difference,
        "heading": lambda line: heading(line._asdict()),
        "millions": millions,
        "number": _number,
        "numbers": json.dumps,
        "product": math.prod,
        "class_text": class_text,
        "score": score_text,
        "three_digits": three_digits,
        "volume": lambda line: volume(line) or NOTHING,
    }
    source = environment.loader.get_source  # type: ignore[union-attr]
    style, script = (source(environment, name)[0] for name in ("page.css", "page.js"))
    entries = [lines[0] for comparison in board.comparisons for lines in grouped(comparison, "entry")]
    categories = {entry.category for entry in entries}
    backbones, runs = {entry.backbone for entry in entries}, {one.run for entry in entries for one in entry.results}
    numbers = {"backbone": len(backbones), "comparison": len(board.comparisons), "run": len(runs)}
    counts = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in numbers.items())
    latest = max((entry.date for entry in entries), default="")
    return environment.get_template("page.html.j2").render(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        summary=", ".join(filter(None, (counts, f"the latest of {latest}" if latest else ""))),
        categories=[name for name in CATEGORIES if name in categories],
        protocols=[same[0] for same in grouped(entries, "protocol") if same[0].protocol],
        devices=board.devices,
        boards=list(map(_board, board.boards)),
        comparisons=[
            _comparison(lines) | {"classes": _class_bars(_classes_of(lines)) if with_classes else None}
            for lines in board.comparisons
        ],
        report=report and {**report, "class_bars": _class_bars(report["classes"])},
        notes=board.notes,
        panels=_panels(board),
        relative=lambda line: [relative_speed(line, device) for device in board.devices],
        short=SHORT,
        nothing=NOTHING,
        paper=PAPER,
        speed_command=SPEED_COMMAND,
        speed_unit=SPEED_UNIT,
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _number(value: float | None) -> str:
    """As the page's script reads it, to sort by it; empty where it is not known."""
    return "" if value is None or math.isnan(value) else repr(float(value))


def _board(lines: Sequence[Any]) -> dict[str, Any]:
    """What the template needs of a table backbones × tasks: its columns, and its rows with their cells."""
    columns = grouped((line for line in lines if line.is_main), "comparison")
    cells: dict[tuple[int, str], Any] = {}
    for column in columns:
        known = [line.mean for line in column if not math.isnan(line.mean)]  # the best first
        span = known[0] - known[-1] if known else 0
        for line in column:
            # 0 for the worst to 4 for the best of several, by the share of the way between them (the paper's Figure 3)
            is_shaded = len(known) > 1 and not math.isnan(line.mean)
            shade = round((_SHADES - 1) * (line.mean - known[-1]) / span) if is_shaded and span else 0
            cells[line.line, line.comparison] = line, (shade, is_shaded and line.mean == known[0])
    rows = [
        (row[0], origin(row), [cells.get((row[0].line, column[0].comparison)) for column in columns])
        for row in sorted(grouped(lines, "line"), key=lambda row: int(row[0].line))
    ]
    title = lines[0].board
    return {
        "title": title,
        "key": digest_of(title)[:10],
        "columns": [column[0] for column in columns],
        "rows": rows,
        "notes": legend(line.marks for line in lines),
    }


def _comparison(lines: Sequence[Any]) -> dict[str, Any]:
    """What the template needs of a comparison: its metrics, and its entries with scores and bar."""
    metrics = sorted((of_metric[0] for of_metric in grouped(lines, "metric")), key=lambda metric: int(metric.place))
    (main,), others = ([metric for metric in metrics if metric.is_main == is_main] for is_main in (True, False))
    bars = _bars([line for line in lines if line.is_main], main.prior)
    rows = []
    for entry in grouped(lines, "entry"):
        scores = {line.metric: line for line in entry}
        further = [scores.get(metric.metric) for metric in others]
        rows.append((entry[0], scores.get(main.metric), bars.get(entry[0].entry), further))
    return {
        "key": main.comparison,
        "title": main.title,
        "main": main,
        "others": others,
        "prior": "" if main.prior is None or math.isnan(main.prior) else f"{main.prior:.4f}",
        "notes": comparison_notes(lines),
        "rows": rows,
    }


def _classes_of(lines: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Entry's name → its :func:`per_class`, of entries that were measured."""
    found = {}
    for entry in grouped(lines, "entry"):
        if entry[0].results:
            homes = dict(zip([result.run for result in entry[0].results], entry[0].homes, strict=True))
            classes = per_class(entry[0].results, homes.__getitem__, with_images=False)  # the page shows none
            found[f"{entry[0].display_name} · {entry[0].name}"] = classes
    return found


def _class_bars(classes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Names of columns, and a row for each class: its facts, and of each column the score and its bar from 0 to 1."""
    known = {name: facts["classes"] for name, facts in classes.items() if facts["classes"]}
    if not known:
        return None

    def bar(one: Mapping[str, Any]) -> dict[str, Any] | None:
        if one["score"] is None:
            return None
        ends = [round(100 * end, 2) for end in one["interval"] if end is not None]
        return {"left": 0, "width": round(100 * one["score"], 2), "priors": [], "whisker": ends}

    rows = [(found[0], [(one, bar(one)) for one in found]) for found in zip(*known.values(), strict=True)]
    confusions = {name: facts["confusions"] for name, facts in classes.items() if facts["confusions"]}
    return {"names": list(known), "rows": rows, "confusions": confusions}


def _bars(lines: Sequence[Any], prior: float | None) -> dict[int, dict[str, Any]]:
    """Entry → its score as a bar that begins at zero, with its interval and the prior; hundredths of the full width.

    The same scale for all bars of a comparison: from zero, or the lowest score below, to the largest score, interval or
    prior.
    """
    scores = [(line.entry, line.mean, line.interval or ()) for line in lines]
    priors = [] if prior is None or math.isnan(prior) else [prior]
    known = [end for _, mean, ends in scores for end in (mean, *ends) if not math.isnan(end)] + priors
    low, high = min([0.0, *known]), max([0.0, *known])

    def place(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.0
        return round(100 * min(max(share, 0.0), 1.0), 2)

    zero = place(0.0)
    return {
        entry: {
            "left": min(zero, place(mean)),
            "width": round(abs(place(mean) - zero), 2),
            "priors": [place(value) for value in priors],
            "whisker": [place(end) for end in ends] if ends and not math.isnan(ends[0]) else [],
        }
        for entry, mean, ends in scores
        if not math.isnan(mean)
    }


def _panels(board: Leaderboard) -> Mapping[str, dict[str, Any]]:
    """Key of an entry → everything that is known of it, as data that the page's script writes out as text."""
    pictures, panels = Pictures(), {}
    for comparison in board.comparisons:
        notes = comparison_notes(comparison)
        for lines in grouped(comparison, "entry"):
            entry, first = lines[0], lines[0].results[:1]
            main = next((line.metric for line in lines if line.is_main), "")
            documents = {f"Protocol {one.protocol_digest[:SHORT]}": one.protocol for one in first}
            for name, cache in (named for one in first for named in one.caches.items()):
                documents[f"Cache: {name} ({cache['digest'][:SHORT]})"] = cache["recipe"]
            panels[entry.key] = {
                "title": f"{entry.display_name} · {entry.name}",
                "subtitle": entry.title,
                "facts": list(_facts(entry, notes)),
                "score_heads": ["metric", "score", "95% interval", "prior", OVER_PRIOR],
                "scores": [
                    [
                        heading(line._asdict()),
                        score_text(line),
                        interval(line.interval),
                        NOTHING if line.prior is None else f"{line.prior:.4f}",
                        difference(line.difference),
                    ]
                    for line in lines
                ],
                "runs": [_run(one, home, main, pictures) for one, home in zip(entry.results, entry.homes, strict=True)],
                "documents": [
                    (title, json.dumps(plain_json(document), indent=1, ensure_ascii=False))
                    for title, document in documents.items()
                ],
            }
    return panels


def _facts(entry: Any, notes: Sequence[str]) -> Iterator[tuple[str, str]]:
    kept = f", {entry.tokens} kept beside it" if entry.layer and entry.tokens != "none" else ""
    yield "from", f"the paper, {entry.printed}" if entry.printed else "result files"
    yield "category", entry.category
    yield "trained on", entry.training_data
    yield "backbone parameters", _with_unit(millions(entry.backbone_parameters, 1), "M")
    yield "feature volume", volume(entry)
    yield "layer", entry.layer + kept
    if not entry.speeds:
        yield "speed", f"not measured: deapcache speed --backbone {entry.backbone}"
    for one in entry.speeds:
        rate = f"{one.images_per_second['median']:.3g} images/s on {one.device}"
        yield "speed", f"{one.relative:.3g} × ViT-B/16 at 224, {rate}"
    yield "learnable parameters", _with_unit(millions(entry.parameters, 3), "M")
    for name, cost in (("training", "train_ms_per_image"), ("prediction", "predict_ms_per_image")):
        yield name, _with_unit(three_digits(entry.cost.get(cost)), "ms/image, the readout alone")
    yield "learning rate", entry.rate
    yield "seeds", ", ".join(map(str, entry.seeds))
    named = entry.results[0].protocol.get("name", "") if entry.results else ""
    yield "protocol", f"{named} {entry.protocol}".strip()
    yield "versions", entry.versions
    yield from (("images", note.removeprefix("images: ")) for note in notes if note.startswith("images: "))
    yield "no interval", entry.problem
    yield from (("mark", meaning) for meaning in legend(entry.marks))


def _with_unit(text: str, unit: str) -> str:
    return "" if text == NOTHING else f"{text} {unit}"


def _run(result: Result, home: Location, main_metric: str, pictures: Pictures) -> dict[str, Any]:
    """One seed."""
    picture, problem = pictures.embed(home, result.run)
    height, width = result.protocol["output_size"]
    step = max(1, -(-len(result.loss_curve) // _POINTS))
    return {
        "run": result.run,
        "seed": result.seed,
        "score": f"{result.scores[main_metric]:.4f}",
        "facts": [
            ("date", result.date),
            ("device", result.device),
            ("time", f"{result.seconds.get('train', 0):.0f} s, shared by {result.readouts_sharing} readouts"),
            ("result file", f"{home}/{result_key(result.run)}"),
        ],
        "aspect": height / width,
        "sigma": [float(value) for value in result.sigma or ()],
        "loss": [(float(at), float(loss)) for at, loss in result.loss_curve[::step] if loss is not None],
        "repeat": reproduce_commands(result),
        "recorded": shlex.join(map(str, result.command)),  # which may have made other runs as well
        "picture": picture,
        "no_picture": problem,
    }


class Pictures:
    """Hands out pictures as data URIs until the page is full; drawn anew, never a stranger's bytes as they are."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._left = budget

    def embed(self, home: Location, run: str) -> tuple[str, str]:
        """(data URI, "") of a run's picture, ("", why not) where it is not in the page; both empty: it has none."""
        key = picture_key(run)
        if not home.exists(key):
            return "", ""
        try:
            data = home.read(key)
            if len(data) > _LARGEST_FILE:
                return "", f"the picture {key} is larger than {_LARGEST_FILE // 1_000_000} MB"
            small = _shrunk(data)
        except (OSError, ValueError, SyntaxError, LocationError, Image.DecompressionBombError, Warning) as error:
            return "", f"the picture {key} cannot be shown: {error}"
        if len(small) > min(self._left, _LARGEST):
            return "", f"the picture {key} is left out to keep this page small"
        self._left -= len(small)
        return _data_uri(small), ""


def _data_uri(webp: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(webp).decode()


def _shrunk(data: bytes) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise ValueError(f"{picture.width} × {picture.height} pixels are too many")
            shown = picture.convert("RGB")
    shown.thumbnail((_WIDEST, _HIGHEST))
    for quality in (78, 55, 30):
        packed = io.BytesIO()
        shown.save(packed, "WEBP", quality=quality)
        if packed.tell() <= _LARGEST:
            break
    return packed.getvalue()
