"""Where caches, results and datasets live, and how bytes get there whole.

A :class:`Location` is a folder: a local path, or a prefix in an object store or on a web server. Everything in a cache
home is written through :meth:`Location.publish`, in one atomic step, so that a key exists if and only if it is whole.
"""

from deapcache.locations.addresses import expanded, local_path, redacted
from deapcache.locations.base import LocalTier, Location, LocationOptions
from deapcache.locations.defaults import HomeDefaults, home_defaults
from deapcache.locations.files import access_error, file_state, read_file, reading, require_reached
from deapcache.locations.hub import HubLocation
from deapcache.locations.local import TEMPORARY_SUFFIX, LocalLocation, file_age
from deapcache.locations.remote import RemoteLocation
from deapcache.locations.resolving import data_root, format_bytes, home, local_tier, locate, parse_bytes
from deapcache.locations.web import INDEX, LISTING_FORMAT, MANIFEST, WebLocation

__all__ = [
    "INDEX",
    "LISTING_FORMAT",
    "MANIFEST",
    "TEMPORARY_SUFFIX",
    "HomeDefaults",
    "HubLocation",
    "LocalLocation",
    "LocalTier",
    "Location",
    "LocationOptions",
    "RemoteLocation",
    "WebLocation",
    "access_error",
    "data_root",
    "expanded",
    "file_age",
    "file_state",
    "format_bytes",
    "home",
    "home_defaults",
    "local_path",
    "local_tier",
    "locate",
    "parse_bytes",
    "read_file",
    "reading",
    "redacted",
    "require_reached",
]
