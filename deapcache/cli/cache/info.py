"""``deapcache cache info``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.cache.rows import One, UsedBy, shown_moment, summary, uses
from deapcache.cli.console import note, out, print_json, size, table
from deapcache.errors import UsageError

if TYPE_CHECKING:
    from deapcache.cache import Cache, CacheEntry

_PICTURED = 8
"""Images of a picture, spread over the cache."""


def info_command(
    cache: One,
    home: options.Home = None,
    read_home: options.ReadHomes = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Read all features: mean, deviation, range, constant channels.")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture",
            metavar="OUT.png",
            callback=options.local_path,
            help="Draw a few feature volumes, their first three principal components as red, green and blue, beside "
            "the base images where these are cached.",
        ),
    ] = None,
    used_by: UsedBy = None,
    json: options.Json = False,
) -> None:
    """Everything about the caches that fit: recipe, shapes, who made them and how; a picture of features."""
    from deapcache.cache import select_caches

    place = options.place(home, read_home)
    fitting = select_caches(place, [cache])
    used = uses(place, used_by).last
    rows = [{**(summary(entry, used.get(entry.digest)) or {}), **_details(entry, statistics)} for entry in fitting]
    if picture is not None:
        _draw(fitting, picture)
    if json:
        print_json(rows)
        return
    for row in rows:
        _show(row)


def _details(entry: CacheEntry, statistics: bool) -> dict[str, Any]:
    cache = entry.open()
    arrays = {
        spec.name: {"dtype": spec.dtype, "shape": [len(cache), *spec.item_shape]} for spec in cache.arrays.values()
    }
    return {
        "statistics": _statistics(cache) if statistics else {},
        "recipe": cache.recipe,
        "arrays": arrays,
        "shard_images": cache.shard_images,
        "shards": cache.shard_count,
        "provenance": cache.provenance(),
    }


def _statistics(cache: Cache) -> dict[str, Any]:
    from deapcache.cache import FeatureCache
    from deapcache.cache.statistics import feature_statistics

    found = feature_statistics(cache) if isinstance(cache, FeatureCache) else None
    return found.to_json() if found else {}


def _draw(fitting: list[CacheEntry], picture: Path) -> None:
    """The picture of the one feature cache among those that fit."""
    from deapcache.cache import companions
    from deapcache.results.components import picture_of_cache

    features = [entry for entry in fitting if entry.kind == "features"]
    if len(features) != 1:
        listed = "\n".join(f"  {entry.path}" for entry in features) or "  none"
        raise UsageError(f"--picture draws one cache of features; these fit:\n{listed}")
    images = [other for other in companions(features[0]) if other.kind == "images"]
    data = picture_of_cache(features[0], images[0] if images else None, _PICTURED)
    target = locations.locate(picture.parent)
    target.publish(picture.name, data, replace=True)
    note(f"picture: {picture}")


def _show(row: dict[str, Any]) -> None:
    out.print(f"{row['home']}/{row['path']}", style="bold", soft_wrap=True)
    shown = table("", "")
    shown.show_header = False
    shown.add_row(
        "images", f"{row['present']:,} of {row['images']:,} in {row['shards']} shards of {row['shard_images']}"
    )
    shown.add_row("size", size(row["bytes"]))
    shown.add_row("last written", shown_moment(row["when"]))
    shown.add_row("last used by a probe", shown_moment(row["last_use"]))
    for name, array in row["arrays"].items():
        shown.add_row(f"array {name}", f"{array['dtype']} {tuple(array['shape'])}")
    for field, value in row["statistics"].items():
        shown.add_row(f"features {field.replace('_', ' ')}", str(value))
    for field, value in row["recipe"].items():
        shown.add_row(f"recipe {field}", str(value))
    for facts in row["provenance"]:
        for field, value in facts.items():
            shown.add_row(f"writer {field}", str(value))
    out.print(shown)
