"""Where caches, results and datasets live, and how bytes get there whole.

A :class:`Location` is a folder: a local path, or a prefix in an object store or on a web server. Everything in a cache
home is written through :meth:`Location.publish`, in one atomic step, so that a key exists if and only if it is whole.
"""

from deapcache.locations.addresses import expanded, local_path, redacted
from deapcache.locations.base import Location, Use
from deapcache.locations.local import TEMPORARY_SUFFIX, LocalLocation, file_age
from deapcache.locations.looking import (
    entries_of,
    files_below,
    is_file,
    is_folder,
    not_reached,
    read_file,
    reading,
    require_reached,
)
from deapcache.locations.remote import RemoteLocation
from deapcache.locations.resolving import data_root, home, locate
from deapcache.locations.tier import LocalTier, local_tier, parse_bytes
from deapcache.locations.web import INDEX, LISTING_FORMAT, MANIFEST, WebLocation

__all__ = [
    "INDEX",
    "LISTING_FORMAT",
    "MANIFEST",
    "TEMPORARY_SUFFIX",
    "LocalLocation",
    "LocalTier",
    "Location",
    "RemoteLocation",
    "Use",
    "WebLocation",
    "data_root",
    "entries_of",
    "expanded",
    "file_age",
    "files_below",
    "home",
    "is_file",
    "is_folder",
    "local_path",
    "local_tier",
    "locate",
    "not_reached",
    "parse_bytes",
    "read_file",
    "reading",
    "redacted",
    "require_reached",
]
