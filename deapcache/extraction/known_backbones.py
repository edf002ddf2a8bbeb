"""What building a backbone has told, kept in the home: an extraction with nothing to do need not build it again.

``backbones/KEY.json``, small files beside the caches that may be deleted. The key covers whatever could make the same
name another backbone: options, versions of the libraries and the files of ``deapcache.backbones``; a weight file counts
as the same while its size, times and inode are.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

import deapcache.backbones
from deapcache.backbones import BACKBONES, Backbone, BackboneIdentity, WeightsSource, split_name
from deapcache.backbones.weights import find
from deapcache.datasets.digests import file_fingerprint, is_settled
from deapcache.errors import DeapcacheError
from deapcache.extraction.settings import ExtractionSettings
from deapcache.locations import Location
from deapcache.machine import versions
from deapcache.recipe import SHORT, digest_of
from deapcache.untrusted import parse_json, require_printable

_MOST_BYTES = 1_000_000
_PACKAGES = ("deapcache", "torch", "timm", "open_clip_torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class KnownBackbone:
    """A backbone that was built before with the same settings."""

    name: str
    """Of its entry, by which features are called."""
    identities: tuple[BackboneIdentity, ...]
    source: WeightsSource | None
    """Where its weights were found; None for weights of a seed, and for a checkpoint that was given."""
    file: Path | None
    """The weight file."""
    fingerprint: tuple[int, ...]
    """Of the file: :func:`deapcache.datasets.digests.file_fingerprint`."""


_KNOWN: TypeAdapter[KnownBackbone] = TypeAdapter(KnownBackbone)


def remember_backbone(home: Location, name: str, settings: ExtractionSettings, backbone: Backbone) -> None:
    """Keep what building ``name`` told, where it will tell the same again; a failure to write it costs time alone.

    Not of a plugin's, whose code may do anything, nor of those whose statistics are calibrated or whose weights are
    several files.
    """
    entry, model = backbone.entry, split_name(name)[0]
    of_plugin = entry.is_plugin or (model in BACKBONES and BACKBONES.source(model))
    if of_plugin or backbone.needs_calibration:
        return
    source = None if entry.untrained or settings.weights else entry.source
    file = settings.weights.absolute() if settings.weights else find(source) if source else None
    if not (entry.untrained or (file and file.is_file() and file.suffix != ".json" and is_settled(file.stat()))):
        return
    known = KnownBackbone(
        name=entry.name,
        identities=backbone.identities,
        source=source,
        file=file,
        fingerprint=file_fingerprint(file.stat()) if file else (),
    )
    with suppress(DeapcacheError, OSError):
        home.publish(_key(name, settings), _KNOWN.dump_json(known, indent=1), replace=True)


def known_backbone(home: Location, name: str, settings: ExtractionSettings) -> KnownBackbone | None:
    """What building ``name`` would tell, where it was built before and nothing has changed since."""
    with suppress(DeapcacheError, OSError, ValueError):
        data = home.read(_key(name, settings), most=_MOST_BYTES)
        require_printable(parse_json(data))
        known = _KNOWN.validate_json(data)
        if known.source and find(known.source) != known.file:
            return None
        if known.file is None or file_fingerprint(known.file.stat()) == known.fingerprint:
            return known
    return None


def _key(name: str, settings: ExtractionSettings) -> str:
    own = sorted(Path(deapcache.backbones.__file__).parent.glob("*.py"))
    facts: dict[str, Any] = {
        "name": name,
        "weights": str(settings.weights.absolute()) if settings.weights else "",
        "weights_key": settings.weights_key,
        "precision": settings.precision,
        "layers": asdict(settings.selection),
        "versions": versions(*_PACKAGES),
        "code": [[file.name, *file_fingerprint(file.stat())[:2]] for file in own],
    }
    return f"backbones/{digest_of(facts)[:SHORT]}.json"
