"""``deapcache cache serve|index``: caches for readers without a shared disk."""

from __future__ import annotations

from typing import Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import note, out


def serve_command(
    home: options.Home = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on: 127.0.0.1 is this machine only, 0.0.0.0 everyone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes a free one.")] = 8712,
) -> None:
    """Serve a home's caches over HTTP, read only: byte ranges for probes, a page for people. Ctrl-C ends it.

    Nothing but features, images, targets and their lists is served; no results, no readouts. Nothing is written.
    """
    from deapcache.cache.serving import HomeServer

    with HomeServer(locations.home(home), host, port) as server:
        out.print(f"serving {server.home} at {server.url}/ (Ctrl-C ends it)", markup=False)
        out.file.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            note("stopped")


def index_command(home: options.Home = None) -> None:
    """Write what plain web servers cannot list anew: manifest.json of every cache, index.json of the home.

    Extraction keeps both true by itself. This is for homes that were copied with other tools, or written before.
    """
    from deapcache.cache import rebuild

    place = locations.home(home)
    entries = rebuild(place)
    images = sum(entry.images for entry in entries)
    out.print(f"{place}/{locations.INDEX}: {len(entries)} caches, {images:,} images", markup=False)
