"""``deapcache cache diff``."""

from __future__ import annotations

from typing import Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import out, print_json, table
from deapcache.errors import UsageError


def diff_command(
    one: Annotated[str, typer.Argument(metavar="A", help="Part of a path, or first characters of a digest.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    home: options.Home = None,
    other_home: Annotated[
        str | None, typer.Option("--other-home", help="The home of B, where it is not that of A.")
    ] = None,
    json: options.Json = False,
) -> None:
    """In which recipe fields two caches differ; recipes decide every number, so that equal ones name one cache."""
    from deapcache.cache import select_cache
    from deapcache.cache.misses import shown as as_text
    from deapcache.recipe import differences

    place = locations.home(home)
    left = select_cache(place, one)
    right = select_cache(locations.locate(other_home) if other_home else place, other)
    if left.kind != right.kind:
        raise UsageError(f"{left.path} holds {left.kind} and {right.path} {right.kind}: give two caches of one kind")
    found = differences(left.fields, right.fields)
    if json:
        fields = {each.field: {"a": each.left, "b": each.right} for each in found}
        print_json({"a": left.path, "b": right.path, "differences": fields})
        return
    if not found:
        out.print(f"the same recipe, {left.digest[:12]}: {left.location} and {right.location}", markup=False)
        return
    listed = table("field", left.path, right.path)
    for each in found:
        listed.add_row(each.field, as_text(each.left), as_text(each.right))
    out.print(listed)
