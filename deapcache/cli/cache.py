"""``deapcache cache ls|info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deapcache.cli import options
from deapcache.cli.console import out, print_json, size, table
from deapcache.errors import CacheMissError, DeapcacheError

if TYPE_CHECKING:
    from deapcache.cache import Cache, CacheEntry

app = typer.Typer(help="Look at the caches of a home.", no_args_is_help=True)


@app.command("ls")
def list_command(home: options.Home = None, read_home: options.ReadHomes = None, json: options.Json = False) -> None:
    """Caches of a home: what, images, bytes, whether complete."""
    from deapcache.cache import list_caches

    place = options.place(home, read_home)
    rows = [_summary(entry) for entry in list_caches(place)]
    if json:
        print_json(rows)
        return
    if not rows:
        out.print(f"no caches in {place}: make one with deapcache extract --backbone NAME --dataset NAME", markup=False)
        return
    named = ["kind", "dataset", "split", "name", "view", *(["home"] if len(place.layers) > 1 else [])]
    shown = table(*named, "images", "size", "digest", right=("images", "size"))
    for row in rows:
        which = [row[name] for name in named]
        if "error" in row:
            shown.add_row(*which, "unreadable", "–", row["error"])
            continue
        images = f"{row['present']:,}" if row["complete"] else f"{row['present']:,} of {row['images']:,}"
        shown.add_row(*which, images, size(row["bytes"]), row["digest"][:12])
    out.print(shown)


def _summary(entry: CacheEntry) -> dict[str, Any]:
    known = {
        "home": str(entry.home),
        "path": entry.path,
        "kind": entry.kind,
        "dataset": entry.dataset,
        "split": entry.split,
        "name": entry.name,
    }
    known["view"] = entry.fields.get("view", "")
    try:
        cache = entry.open()
    except DeapcacheError as error:
        return {**known, "error": str(error)}
    present = cache.present_shards()
    return {
        **known,
        "digest": cache.digest,
        "images": len(cache),
        "present": sum(len(cache.shard_rows(k)) for k in present),
        "complete": len(present) == cache.shard_count,
        "bytes": cache.stored_bytes(),
    }


@app.command("info")
def info_command(
    cache: Annotated[str, typer.Argument(help="First characters of a digest, or part of the path.")],
    home: options.Home = None,
    read_home: options.ReadHomes = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Read all features: mean, deviation, range, constant channels.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Everything about the caches that fit: recipe, shapes, who made them and how."""
    from deapcache.cache import list_caches

    place = options.place(home, read_home)
    fitting = [e for e in list_caches(place) if e.digest.startswith(cache) or cache in e.path]
    if not fitting:
        raise CacheMissError(f"no cache in {place} fits {cache!r}: deapcache cache ls lists them")
    rows = [{**_summary(entry), **_details(entry, statistics)} for entry in fitting]
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


def _show(row: dict[str, Any]) -> None:
    out.print(f"[bold]{row['path']}[/bold]  in {row['home']}")
    shown = table("", "")
    shown.show_header = False
    shown.add_row(
        "images", f"{row['present']:,} of {row['images']:,} in {row['shards']} shards of {row['shard_images']}"
    )
    shown.add_row("size", size(row["bytes"]))
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
