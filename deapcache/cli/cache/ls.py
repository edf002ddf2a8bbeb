"""``deapcache cache ls``."""

from __future__ import annotations

from typing import Any

from deapcache.cli import options
from deapcache.cli.cache.rows import Filter, UsedBy, shown_moment, summary, uses
from deapcache.cli.console import out, print_json, size, table


def list_command(
    home: options.Home = None,
    read_home: options.ReadHomes = None,
    filters: Filter = None,
    used_by: UsedBy = None,
    json: options.Json = False,
) -> None:
    """Caches of a home: what, images, bytes, whether complete, who made them and when, when a probe last used them."""
    from deapcache.cache import are_wanted, list_caches

    place = options.place(home, read_home)
    used = uses(place, used_by).last
    entries = list_caches(place)
    asked = [(entry, summary(entry, used.get(entry.digest))) for entry in entries]
    fields = [{**entry.fields, **row} for entry, row in asked if row]
    told = [row for _, row in asked if row]
    rows = [row for row, wanted in zip(told, are_wanted(fields, filters or []), strict=True) if wanted]
    if json:
        print_json(rows)
    elif rows:
        out.print(_table(rows, several_homes=len(place.layers) > 1))
    elif filters:
        out.print(f"no cache in {place} fits {' and '.join(filters)}", markup=False)
    else:
        out.print(f"no caches in {place}: make one with deapcache extract --backbone NAME --dataset NAME", markup=False)


def _table(rows: list[dict[str, Any]], *, several_homes: bool) -> Any:
    names = ("kind", "dataset", "split", "name", "view", *(("home",) if several_homes else ()))
    shown = table(*names, "images", "size", "who", "when", "last use", "digest", right=("images", "size"))
    for row in rows:
        which = [row[name] for name in names]
        if "error" in row:
            shown.add_row(*which, "unreadable", "–", "–", "–", "–", row["error"])
            continue
        images = f"{row['present']:,}" if row["complete"] else f"{row['present']:,} of {row['images']:,}"
        made = (row["who"] or "–", shown_moment(row["when"]), shown_moment(row["last_use"]))
        shown.add_row(*which, images, size(row["bytes"]), *made, row["digest"][:12])
    return shown
