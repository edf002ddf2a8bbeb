"""What a plan needs to know about a dataset, whether or not its files are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deapcache.annotations import BOXES
from deapcache.cache import list_caches
from deapcache.datasets import Dataset, dataset_entry, images_owner
from deapcache.errors import MissingDataError
from deapcache.locations import Location

LISTED, CACHED, OFFICIAL = "listed", "in the home", "official"
"""Where a number of images comes from: the dataset's files, caches of it, or its official description."""


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """One split."""

    images: int
    counted: str
    """``LISTED``, ``CACHED`` or ``OFFICIAL``."""
    ids: tuple[str, ...] | None = None
    """Ids of the images; None where the files that name them are not there."""
    box_rows: int | None = None
    """Rows of each table of boxes; None where there are none, or where only the files could tell."""


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """What is known about a dataset without its files; the attributes are those of :class:`Dataset`."""

    name: str
    images_name: str
    base_size: tuple[int, int]
    annotations: tuple[str, ...]
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    of: Mapping[str, SplitSummary]
    """By split; only the splits of the plan."""

    def box_rows(self, split: str) -> int:
        """As :meth:`Dataset.box_rows`; 1, which is the image itself, where only the files could tell."""
        return self.of[split].box_rows or 1


def summarize_dataset(dataset: Dataset, splits: Sequence[str]) -> DatasetSummary:
    """The summary of a dataset whose files are there; raises what listing ``splits`` raises."""

    def summarize(split: str) -> SplitSummary:
        ids = dataset.image_ids(split)
        rows = dataset.box_rows(split) if BOXES in dataset.annotations else None
        return SplitSummary(images=len(ids), counted=LISTED, ids=ids, box_rows=rows)

    return DatasetSummary(
        name=dataset.name,
        images_name=dataset.images_name,
        base_size=dataset.base_size,
        annotations=dataset.annotations,
        classes=dataset.classes,
        splits=dataset.splits,
        of={split: summarize(split) for split in splits},
    )


def summarize_without_files(name: str, home: Location) -> DatasetSummary:
    """The summary of a dataset by its name, with the numbers of images that ``home`` holds, else the official ones.

    Raises :class:`UnknownNameError`, and :class:`MissingDataError` where the number of images is known from neither.
    """
    entry = dataset_entry(name)
    splits = Dataset.splits
    cached = _summarize_cached(home, images_owner(name))
    for split in splits:
        if split not in cached and split not in entry.official:
            raise MissingDataError(
                f"{name}: the number of images of {split} is known neither from its files nor from {home}, and no "
                "official number is registered; give the folder with --data-root or DEAPCACHE_DATA"
            )
    # a kind that an earlier version did not have cannot be made without the files
    targets = {found.name for found in (list_caches(home, "targets") if home.can_list else ()) if found.dataset == name}
    return DatasetSummary(
        name=name,
        images_name=images_owner(name),
        base_size=entry.base_size,
        annotations=tuple(kind for kind in entry.annotations if kind in targets) or entry.annotations,
        classes=entry.classes,
        splits=splits,
        of={
            split: cached.get(split) or SplitSummary(images=entry.official[split], counted=OFFICIAL) for split in splits
        },
    )


def _summarize_cached(home: Location, owner: str) -> dict[str, SplitSummary]:
    """The splits whose caches in ``home`` all list the same images."""
    entries = [entry for entry in (list_caches(home) if home.can_list else ()) if entry.dataset == owner]
    # one of each image set: the others have the same ids
    first = {(entry.split, entry.fields["images"]): entry for entry in entries if entry.kind != "targets"}
    ids: dict[str, set[tuple[str, ...]]] = {}
    for entry in first.values():
        ids.setdefault(entry.split, set()).add(entry.open().image_ids)
    agreed = {split: next(iter(found)) for split, found in ids.items() if len(found) == 1}
    return {split: SplitSummary(images=len(found), counted=CACHED, ids=found) for split, found in agreed.items()}
