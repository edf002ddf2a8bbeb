"""Homes as a notebook gives them: a path, a URL, or a location that was made before."""

from __future__ import annotations

import os

from deapcache import locations
from deapcache.locations import Location

Home = str | os.PathLike[str] | Location | None
"""Path or URL of a home, or a location (``deapcache.home(…)``); None: as the command line finds it."""


def home_of(given: Home) -> Location:
    """The home that is meant; raises :class:`UsageError` for an address that cannot be used."""
    return given if isinstance(given, Location) else locations.home(given)
