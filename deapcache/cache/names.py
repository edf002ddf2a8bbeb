"""Where caches lie below a home: ``<kind>/<dataset>/<split>/<name>-<digest12>.zarr``, and back again; names of views.

Views are the image as it is, and its mirror image. Features are never mirrored: position embeddings and learned filters
tell left from right, so that the mirrored feature map of an image is not the feature map of the mirrored image.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable

from deapcache.errors import UsageError
from deapcache.locations import Location, locate
from deapcache.recipe import SHORT

KINDS = ("features", "images", "targets")
SUFFIX = ".zarr"
CLAIMS = "claims"
"""Folder inside a cache that says what extractors are at work on; it is no part of what the cache is."""
PROVENANCE = "provenance"
"""Folder inside a cache in which each writer says how it was made."""
DEPTH = 4
"""Parts of a cache's path: kind, dataset, split, name."""

ORIGINAL, HFLIP = "original", "hflip"
VIEWS = (ORIGINAL, HFLIP)
"""All views, in the order in which they are named and extracted."""

_CONTROL = ("Cc", "Cs")
_ODD = re.compile(r"[^A-Za-z0-9_.@+=-]|^\.")
_ESCAPED = re.compile(r"~([0-9a-f]{1,6})\.")


def is_provenance(key: str) -> bool:
    """Whether a key of a cache is what one writer has recorded: ``provenance/<writer>.json``."""
    folder, _, name = key.rpartition("/")
    return folder == PROVENANCE and name.endswith(".json")


def features_path(dataset: str, split: str, backbone: str, digest: str) -> str:
    """``features/coco/train/siglip-384-0123456789ab.zarr``, relative to the home."""
    return _path("features", dataset, split, f"{escape_name(backbone)}-{digest[:SHORT]}")


def images_path(dataset: str, split: str, digest: str) -> str:
    """``images/coco/train/0123456789ab.zarr``, relative to the home."""
    return _path("images", dataset, split, digest[:SHORT])


def targets_path(dataset: str, split: str, annotation: str, digest: str) -> str:
    """``targets/coco/train/instances-0123456789ab.zarr``, relative to the home."""
    return _path("targets", dataset, split, f"{escape_name(annotation)}-{digest[:SHORT]}")


def relative_path(location: Location) -> str:
    """Where a cache lies below its home, for people: the last parts of its address."""
    return "/".join(str(location).split("/")[-DEPTH:])


def home_of(cache: Location) -> Location | None:
    """The home in which a cache lies, as one that may be written to; None where it lies elsewhere."""
    head, *path = cache.url.rsplit("/", DEPTH)
    belongs = len(path) == DEPTH and path[0] in KINDS and path[-1].endswith(SUFFIX)
    return locate(head or "/") if belongs else None


def escape_name(name: str) -> str:
    """``name`` as one part of a path; odd characters (``timm:…``, ``a/b``) become ``~`` and their code, reversibly.

    Percent signs are not used: web servers would decode them. Raises :class:`UsageError` for an empty name.
    """
    if not name:
        raise UsageError("the name of a dataset, split or backbone must not be empty")
    return _ODD.sub(lambda found: f"~{ord(found[0]):x}.", name)


def unescape_name(part: str) -> str:
    """The name that :func:`escape_name` was given; codes of control characters stay: no terminal obeys them."""

    def character(found: re.Match[str]) -> str:
        code = int(found[1], 16)
        text = chr(code) if code <= sys.maxunicode else ""
        return text if text and unicodedata.category(text) not in _CONTROL else found[0]

    return _ESCAPED.sub(character, part)


def dataset_and_split(path: str) -> tuple[str, str]:
    """Which dataset and split the path of a cache below its home names."""
    _, dataset, split, _ = path.split("/")
    return unescape_name(dataset), unescape_name(split)


def _path(kind: str, dataset: str, split: str, name: str) -> str:
    return f"{kind}/{escape_name(dataset)}/{escape_name(split)}/{name}{SUFFIX}"


def check_views(views: Iterable[str]) -> tuple[str, ...]:
    """The views asked for, each once and in the order of :data:`VIEWS`.

    Raises :class:`UsageError` for one that there is not, and where none is given.
    """
    asked = tuple(views)
    if unknown := [view for view in asked if view not in VIEWS]:
        raise UsageError(f"unknown view {unknown[0]!r}: choose among {', '.join(VIEWS)}")
    if not asked:
        raise UsageError(f"no view is given: expected at least one of {', '.join(VIEWS)}")
    return tuple(view for view in VIEWS if view in asked)


def name_view(name: str, view: str) -> str:
    """For people: ``train``, or ``train · hflip``; original images go without saying."""
    return name if view == ORIGINAL else f"{name} · {view}"
