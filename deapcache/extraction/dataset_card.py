"""The dataset card of a home on the Hugging Face Hub: README.md, with its caches and how to read them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from deapcache.backbones import describe
from deapcache.cache import CacheEntry, cache_contents, list_caches
from deapcache.datasets import DATASETS
from deapcache.errors import DeapcacheError
from deapcache.locations import Location, format_bytes

CARD = "README.md"
_BEGIN, _END = "<!-- deapcache: written by cache push, replaced by the next one -->", "<!-- /deapcache -->"
_TAGS = ("deapcache", "dense-features", "vision-backbones")
_HUB_NAMES = {
    "apache-2.0": "apache-2.0", "mit": "mit", "cc by 4.0": "cc-by-4.0", "cc by-nc 4.0": "cc-by-nc-4.0",
    "cc by-nc-sa 3.0": "cc-by-nc-sa-3.0", "cc by-nc-sa 4.0": "cc-by-nc-sa-4.0",
}  # fmt: skip
"""Licences as the package lists them → as the Hub does."""
_UNKNOWN = "not known to deapcache"


def write_dataset_card(home: Location) -> None:
    """Write the card of ``home``, a repository of the Hub; text and header of the owner's own stay."""
    try:
        before = home.read(CARD).decode()
    except FileNotFoundError:
        before = ""
    card = dataset_card(str(home), list_caches(home), before)
    if card != before:
        home.publish(CARD, card.encode(), replace=True)


def dataset_card(address: str, entries: Iterable[CacheEntry], before: str = "") -> str:
    """The card of the home at ``address`` that holds these caches; ``before`` is the one that is there.

    Of that one everything stays but the part between deapcache's marks, and its YAML header is only added to.
    """
    from huggingface_hub import DatasetCard

    entries = list(entries)
    datasets = sorted({entry.dataset for entry in entries})
    backbones = sorted({entry.name for entry in entries if entry.kind == "features"})
    licences = {f"features of {name}": _weights_licence(name) for name in backbones}
    for name in datasets:
        licences[f"images and labels of {name}"] = (name in DATASETS and DATASETS.get(name).licence) or _UNKNOWN
    names = {licence.partition(",")[0].lower() for licence in licences.values()}
    only = _HUB_NAMES.get(names.pop(), "other") if len(names) == 1 else "other"
    card = DatasetCard(before, ignore_metadata_errors=True)
    header, text = card.data.to_dict(), card.text.strip()
    header.setdefault("license", only)
    header["tags"] = list(dict.fromkeys([*(header.get("tags") or ()), *_TAGS]))
    header.setdefault("viewer", False)  # arrays, which the Hub's table of rows cannot show
    own = re.sub(rf"{re.escape(_BEGIN)}.*?{re.escape(_END)}", "", text, flags=re.DOTALL).strip()
    part = "\n".join([_BEGIN, *_lines(address, entries, licences), _END])
    for name, value in header.items():
        setattr(card.data, name, value)
    return f"---\n{card.data.to_yaml()}\n---\n\n" + "\n\n".join(each for each in (own, part) if each) + "\n"


def _lines(address: str, entries: list[CacheEntry], licences: dict[str, str]) -> Iterable[str]:
    yield "# Cached features"
    yield ""
    yield "Features of frozen vision backbones, with the labels to probe them, as `deapcache` caches: Zarr v3, in"
    yield "shards that are read by byte ranges. They are read where they are, without images and without a GPU:"
    yield ""
    yield "```"
    yield f"deapcache cache ls --home {address}"
    yield f"deapcache probe --task TASK --home {address} --results-home ."
    yield "```"
    yield ""
    yield "| kind | dataset | split | name | images | size |"
    yield "|---|---|---|---|---:|---:|"
    for entry in entries:
        found = cache_contents(entry.location, entry.digest)
        images = f"{found.images:,}" if found.is_complete else f"{found.images:,} of {found.total:,}"
        cells = (entry.kind, entry.dataset, entry.split, entry.name, images, format_bytes(found.bytes))
        yield "| " + " | ".join(_plain(cell) for cell in cells) + " |"
    yield ""
    yield "Licences, as far as they are known:"
    yield ""
    yield from (f"* {_plain(what)}: {_plain(licence)}" for what, licence in licences.items())


def _plain(text: str) -> str:
    """Names are anybody's: none of them may be Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text) or "–"


def _weights_licence(name: str) -> str:
    try:
        return describe(name).licence
    except (DeapcacheError, ImportError):
        return _UNKNOWN
