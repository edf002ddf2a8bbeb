"""Find the images that can be read with all their annotations, before any cache is made (``--on-error skip``)."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from deapcache.cache.names import escape_name
from deapcache.cache.progress import Progress, ProgressEvent, no_progress
from deapcache.datasets import Dataset, workers
from deapcache.datasets.digests import file_fingerprint, is_settled
from deapcache.errors import DataError, LocationError, MissingDataError, printable
from deapcache.locations import Location
from deapcache.recipe import SHORT, canonical_json, digest_of

_BLOCK = 1024
"""Images that the workers get at once."""


def without_unreadable(
    dataset: Dataset, splits: Sequence[str], home: Location, *, recheck: bool = False, progress: Progress = no_progress
) -> Dataset:
    """``dataset`` without the images of ``splits`` that cannot be read, or one of whose annotations cannot.

    It reads every file, except those that ``home`` remembers as readable and whose size, times and inode are unchanged;
    with ``recheck``, also these. :attr:`Dataset.omitted` of the result says which images it omits, and why.
    Raises :class:`DataError` where no image of a split is left, and what the dataset raises of a whole split.
    """
    found = {split: _unreadable(dataset.tolerant(), split, home, recheck, progress) for split in splits}
    omitted = {split: reasons for split, reasons in found.items() if reasons}
    return dataset.without(omitted) if omitted else dataset


def _unreadable(dataset: Dataset, split: str, home: Location, recheck: bool, progress: Progress) -> dict[str, str]:
    """Image id → the first reason why it cannot be read, by id."""
    ids = dataset.image_ids(split)
    index = _ReadableIndex(home, dataset, split)
    if recheck:
        index.sound.clear()
    examine = functools.partial(_examine, dataset, split)
    try:
        with workers(dataset) as pool:
            for start in range(0, len(ids), _BLOCK):
                rows = range(start, min(start + _BLOCK, len(ids)))
                found = pool.map(examine, rows, [index.sound.get(ids[row], "") for row in rows])
                for row, (fingerprint, reason) in zip(rows, found, strict=True):
                    index.add(ids[row], fingerprint, reason)
                    progress(ProgressEvent(stage=f"{dataset.name}/{split}: check", done=row + 1, total=len(ids)))
    finally:
        index.save()  # also of an interrupted check
    root = getattr(dataset, "root", None)
    if index.left_out and root and not root.is_dir():
        raise MissingDataError(f"{root} was moved away while its images were read; put it back, and try again")
    if len(index.left_out) == len(ids):
        first = next(iter(index.left_out.values()), "there is none")
        raise DataError(f"no image of {dataset.name}/{split} can be read with all its annotations: {first}")
    return dict(sorted(index.left_out.items()))


def _examine(dataset: Dataset, split: str, row: int, known: str) -> tuple[str, str]:
    """The fingerprint of a row's files, and why they cannot be read; empty where they can."""
    fingerprint = _fingerprint(dataset, split, row)
    if fingerprint and fingerprint == known:
        return fingerprint, ""
    try:
        dataset.picture(split, row)
        for kind in dataset.annotations:
            dataset.read_annotation(split, row, kind)
    except (DataError, MissingDataError) as error:
        return fingerprint, str(error)
    return fingerprint, ""


def _fingerprint(dataset: Dataset, split: str, row: int) -> str:
    """Changes whenever a file of a row does; empty where nothing can tell."""
    try:
        facts = [(path, path.stat()) for path in dataset.row_files(split, row)]
    except OSError:
        return ""
    if not facts or not all(is_settled(found) for _, found in facts):
        return ""
    return digest_of([[printable(str(path)), *file_fingerprint(found)] for path, found in facts])[:SHORT]


class _ReadableIndex:
    """Which images of a split could be read, by the fingerprints of their files, in ``checks/`` of a home.

    It does not remember images that could not be read: they are read again each time. An index that is lost, that
    cannot be read or that cannot be written only costs time.
    """

    def __init__(self, home: Location, dataset: Dataset, split: str) -> None:
        self.left_out: dict[str, str] = {}
        self._home = home
        self._key = f"checks/{escape_name(dataset.name)}-{split}.json"
        self._reader = digest_of(_reader(dataset))
        self.sound = self._load()

    def add(self, image_id: str, fingerprint: str, reason: str) -> None:
        """Record whether an image could be read."""
        if reason:
            self.left_out[image_id] = reason
        if reason or not fingerprint:
            self.sound.pop(image_id, None)
        else:
            self.sound[image_id] = fingerprint

    def save(self) -> None:
        """Publish it, with the omitted images and the reasons for people to read."""
        content = {"reader": self._reader, "left_out": self.left_out, "sound": self.sound}
        with suppress(LocationError):
            self._home.publish(self._key, canonical_json(content), replace=True)

    def _load(self) -> dict[str, str]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self._home.read(self._key))
            if content["reader"] == self._reader:
                return dict(content["sound"])
        return {}


def _reader(dataset: Dataset) -> list[Any]:
    """What decides whether an image can be read, besides its files."""
    options = {kind: dataset.target_options(kind) for kind in dataset.annotations}
    return [version("deapcache"), version("pillow"), dataset.colour, options, list(dataset.classes)]
