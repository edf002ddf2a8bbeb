"""The page that people see: which caches there are, and the commands that use them. No script, nothing from afar."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from deapcache.cache.index import IndexEntry
from deapcache.recipe import SHORT

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#222}
table{border-collapse:collapse}th,td{padding:.25em .8em .25em 0;text-align:left;border-bottom:1px solid #ddd}
td.n,th.n{text-align:right}pre,code{background:#f4f4f4;padding:.1em .3em}pre{padding:.8em;overflow-x:auto}"""

_COLUMNS = ("kind", "dataset", "split", "name", "view", "images", "size", "digest")
_NUMBERS = ("images", "size")


def index_page(entries: Sequence[IndexEntry], address: str) -> bytes:
    """The page as UTF-8 HTML; ``address`` is how the visitor reaches this home."""
    head = "".join(f"<th{_css(name)}>{name}</th>" for name in _COLUMNS)
    rows = "\n".join(_row(entry) for entry in entries)
    table = f"<table>\n<tr>{head}</tr>\n{rows}\n</table>" if entries else "<p>There are no caches yet.</p>"
    total = _size(sum(entry.bytes for entry in entries))
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>deapcache: {len(entries)} caches</title><style>{_STYLE}</style></head>
<body>
<h1>Feature caches</h1>
<p>{len(entries)} caches, {total}, read only. For machines: <a href="index.json">index.json</a>.</p>
{table}
<h2>Use them</h2>
<pre>deapcache cache ls --home {escape(address)}
deapcache probe --task TASK --home {escape(address)} --results-home PATH</pre>
<p>Or in Python: <code>deapcache.list_caches(deapcache.home("{escape(address)}"))</code></p>
</body>
</html>
""".encode()


def _row(entry: IndexEntry) -> str:
    images = f"{entry.images:,}" if entry.images == entry.total else f"{entry.images:,} of {entry.total:,}"
    link = f'<a href="{escape(entry.path)}/zarr.json">{escape(entry.digest[:SHORT])}</a>'
    shown = (*map(escape, (entry.kind, entry.dataset, entry.split, entry.name, entry.view)), images, _size(entry.bytes))
    cells = "".join(f"<td{_css(name)}>{text}</td>" for name, text in zip(_COLUMNS, (*shown, link), strict=True))
    return f"<tr>{cells}</tr>"


def _css(column: str) -> str:
    return ' class="n"' if column in _NUMBERS else ""


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
