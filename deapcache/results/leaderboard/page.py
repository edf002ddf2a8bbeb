"""The leaderboard as one HTML page that needs nothing but itself: no network, and nothing of it runs what it shows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from deapcache.recipe import SHORT
from deapcache.results.leaderboard.embedding import Pictures
from deapcache.results.leaderboard.entries import Leaderboard
from deapcache.results.leaderboard.facts import CATEGORIES
from deapcache.results.leaderboard.page_speeds import device_choice
from deapcache.results.leaderboard.page_tables import board_section, comparison_section
from deapcache.results.leaderboard.panels import Panel, panel

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def html_page(board: Leaderboard) -> str:
    """UTF-8 HTML; the panels' data is JSON in a script element that is not run, and everything else is escaped.

    A content security policy lets nothing load and only the page's own script and style act.
    """
    style, script = _file("page.css"), _file("page.js")
    parts = {
        "policy": f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "summary": escape(_summary(board)),
        "categories": _categories(board),
        "protocols": _protocols(board),
        "tasks": "".join(f'<li><a href="#task-{c.key}">{escape(c.title)}</a></li>' for c in board.comparisons),
        "devices": device_choice(board.devices),
        "boards": "\n".join(board_section(one, board.devices) for one in board.boards),
        "comparisons": "\n".join(comparison_section(one, board.devices) for one in board.comparisons),
        "notes": "".join(f"<li>{escape(note)}</li>" for note in board.notes),
        "data": script_json(_panels(board)),
    }
    # in one pass: a name that looks like a place is not filled again
    return _PLACE.sub(lambda place: parts[place[1]], _file("page.html"))


def script_json(value: Any) -> str:
    """JSON that cannot end, or comment out, the script element it stands in."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _file(name: str) -> str:
    return files("deapcache.results.leaderboard").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _panels(board: Leaderboard) -> Mapping[str, Panel]:
    pictures = Pictures()
    return {
        entry.key: panel(entry, comparison, pictures)
        for comparison in board.comparisons
        for entry in comparison.entries
    }


def _summary(board: Leaderboard) -> str:
    entries = [entry for comparison in board.comparisons for entry in comparison.entries]
    runs = {result.run for entry in entries if entry.summary for result in entry.summary.results}
    backbones = {entry.backbone.name for entry in entries}
    text = f"{len(backbones)} backbones, {len(board.comparisons)} comparisons, {len(runs)} runs"
    latest = max((entry.date for entry in entries), default="")
    return f"{text}, the latest of {latest}" if latest else text


def _categories(board: Leaderboard) -> str:
    there = {line.first.backbone.category for one in board.boards for line in one.lines}
    return "".join(
        f'<label><input type="checkbox" name="category" value="{escape(name)}" checked> {escape(name)}</label>'
        for name in CATEGORIES
        if name in there
    )


def _protocols(board: Leaderboard) -> str:
    named: dict[str, str] = {}
    for comparison in board.comparisons:
        for entry in comparison.entries:
            if entry.protocol:
                named.setdefault(entry.protocol, f"{comparison.title} · {entry.name}")
    return "".join(
        f'<option value="{escape(digest)}">{escape(digest[:SHORT])}: {escape(name)}</option>'
        for digest, name in named.items()
    )
