"""What a plan needs to know of a dataset, whether or not its files are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deapcache.cache import list_caches
from deapcache.datasets import BOXES, Dataset, dataset_entry, images_owner
from deapcache.errors import MissingDataError
from deapcache.locations import Location

LISTED, CACHED, OFFICIAL = "listed", "in the home", "official"
"""How a number of images is known: from the dataset's files, from caches of it, or as it is distributed."""


@dataclass(frozen=True, kw_only=True)
class SplitOutline:
    """One split."""

    images: int
    counted: str
    """``LISTED``, ``CACHED`` or ``OFFICIAL``."""
    ids: tuple[str, ...] | None = None
    """Ids of the images; None where the files that name them are not there."""
    box_rows: int | None = None
    """Rows of each table of boxes; None where there are none, or where only the files could tell."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A dataset as far as it can be known without its files; attributes as those of :class:`Dataset`."""

    name: str
    images_name: str
    base_size: tuple[int, int]
    annotations: tuple[str, ...]
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    of: Mapping[str, SplitOutline]
    """By split, of those that a plan is about."""

    def box_rows(self, split: str) -> int:
        """As :meth:`Dataset.box_rows`; 1, which is the image itself, where only the files could tell."""
        return self.of[split].box_rows or 1


def outline_of(dataset: Dataset, splits: Sequence[str]) -> Outline:
    """The outline of a dataset whose files are there; raises what listing ``splits`` raises."""
    return Outline(
        name=dataset.name,
        images_name=dataset.images_name,
        base_size=dataset.base_size,
        annotations=dataset.annotations,
        classes=dataset.classes,
        splits=dataset.splits,
        of={split: _listed(dataset, split) for split in splits},
    )


def outline_without_files(name: str, home: Location) -> Outline:
    """The outline of a dataset by its name, with the numbers of images that ``home`` holds, else the official ones.

    Raises :class:`UnknownNameError`, and :class:`MissingDataError` where the number of images is known from neither.
    """
    entry = dataset_entry(name)
    splits = Dataset.splits
    held = _held(home, images_owner(name))
    for split in splits:
        if split not in held and split not in entry.official:
            raise MissingDataError(
                f"{name}: the number of images of {split} is known neither from its files nor from {home}, and no "
                "official number is registered; give the folder with --data-root or DEAPCACHE_DATA"
            )
    return Outline(
        name=name,
        images_name=images_owner(name),
        base_size=entry.base_size,
        annotations=entry.annotations,
        classes=entry.classes,
        splits=splits,
        of={split: held.get(split) or _official(entry.official[split]) for split in splits},
    )


def _listed(dataset: Dataset, split: str) -> SplitOutline:
    ids = dataset.image_ids(split)
    rows = dataset.box_rows(split) if BOXES in dataset.annotations else None
    return SplitOutline(images=len(ids), counted=LISTED, ids=ids, box_rows=rows)


def _official(images: int) -> SplitOutline:
    return SplitOutline(images=images, counted=OFFICIAL)


def _held(home: Location, owner: str) -> dict[str, SplitOutline]:
    """The splits whose caches in ``home`` all list the same images."""
    ids: dict[str, set[tuple[str, ...]]] = {}
    for entry in list_caches(home) if home.can_list else ():
        if entry.dataset == owner and entry.kind != "targets":
            ids.setdefault(entry.split, set()).add(entry.open().image_ids)
    agreed = {split: next(iter(found)) for split, found in ids.items() if len(found) == 1}
    return {split: SplitOutline(images=len(found), counted=CACHED, ids=found) for split, found in agreed.items()}
