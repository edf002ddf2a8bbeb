"""From a name to its entry."""

from __future__ import annotations

from deapcache.backbones.entries import BACKBONES, UNTRAINED, BackboneEntry
from deapcache.errors import UnknownNameError


def describe(name: str) -> BackboneEntry:
    """The facts about a backbone; nothing is downloaded, and for the registered names nothing is built.

    ``name`` is a registered name (``siglip-384``), ``timm:NAME`` or ``timm:NAME.TAG``, ``open_clip:MODEL/TAG`` or
    ``open_clip:MODEL``; any of them may end in ``@untrained``. Raises :class:`UnknownNameError` with the nearest names.
    """
    trained = name.removesuffix(UNTRAINED)
    entry = _describe_trained(trained)
    return entry if trained == name else entry.as_untrained()


def _describe_trained(name: str) -> BackboneEntry:
    library, colon, model = name.partition(":")
    if colon and library == "timm":
        from deapcache.backbones import timm_models

        return timm_models.describe(model)
    if colon and library == "open_clip":
        from deapcache.backbones import open_clip_models

        return open_clip_models.describe(model)
    try:
        return BACKBONES.get(name)
    except UnknownNameError as error:
        others = "timm:NAME, open_clip:MODEL/TAG and those of --plugin FILE"
        raise UnknownNameError(f"{error}; others are {others}") from None
