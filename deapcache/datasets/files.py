"""Datasets that are files in folders: one image file and its label files for each sample."""

from __future__ import annotations

import copy
import threading
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from deapcache.annotations import BOXES
from deapcache.datasets.base import Dataset, sample_key
from deapcache.datasets.digests import DigestIndex, Progress, digest_files
from deapcache.datasets.io import (
    COLOUR_AS_STORED,
    decode_image,
    file_errors,
    image_size,
    read_depth_png,
    read_index_map,
    require_values,
)
from deapcache.errors import LEAVE_OUT, DataError, printable
from deapcache.recipe import digest_of

_LISTING = threading.Lock()  # of the module, so that a dataset can be pickled


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image and the files that its annotations are read from, relative to the dataset's folder."""

    id: str
    image: str
    labels: Mapping[str, tuple[str, ...]]
    """By kind of annotation; a kind that is read from the files of another (boxes) names them again."""
    problem: str = ""
    """Why it cannot be read, where the names of its files say so already; names the file."""
    record: Any = None
    """What a listing says of it beside its files, in the dataset's own form."""


class FileDataset(Dataset):
    """A dataset whose images and labels are files under ``root``, whose samples are listed when first needed.

    A subclass says which files make up a split, lists its samples and reads one annotation; finding the root, digests
    and images come from here, and so does leaving samples out. A copy that is tolerant, or lacks some images, lists
    anew and shares the rest.
    """

    colour: ClassVar[str] = COLOUR_AS_STORED
    most_objects: ClassVar[int] = 0
    """Most objects an image may have; the ``boxes`` table of every image has room for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[str, tuple[Sample, ...]] = {}
        self._is_tolerant = False

    def tolerant(self) -> Self:
        made = self._unlisted_copy()
        made._is_tolerant = True
        return made

    def without(self, omitted: Mapping[str, Mapping[str, str]]) -> Self:
        made = self._unlisted_copy()
        made.omitted = self.omitted_and(omitted)
        return made

    def _unlisted_copy(self) -> Self:
        made = copy.copy(self)
        made._listings = {}
        return made

    @abstractmethod
    def list_samples(self, split: str) -> Sequence[Sample]:
        """All samples of a split, by id; raises as :meth:`Dataset.image_ids` does.

        What concerns one image alone is better a sample's ``problem``, which can be left out.
        """

    @abstractmethod
    def read_labels(self, sample: Sample, kind: str) -> NDArray[Any]:
        """What :meth:`Dataset.read_annotation` gives, for a kind that the dataset has."""

    def samples(self, split: str) -> tuple[Sample, ...]:
        """The samples of a split, listed once; training images in ``deapcache.datasets.base.sample_order``."""
        self._require_split(split)
        with _LISTING:
            if split not in self._listings:
                with file_errors(self.root):
                    listed = self.list_samples(split)
                left_out = self.omitted.get(split, {})
                kept = []
                for sample in listed:
                    id_ = printable(sample.id)
                    if id_ != sample.id:  # a name that is not UTF-8 can be written nowhere: the id shows its bytes
                        problem = sample.problem or f"the name of {sample.image} is not UTF-8: rename it"
                        sample = replace(sample, id=id_, problem=problem)
                    if id_ not in left_out:
                        kept.append(sample)
                problems = [sample.problem for sample in kept if sample.problem]
                if problems and not self._is_tolerant:
                    others = f" (so or otherwise, {len(problems)} of {len(kept)} images cannot be read)"
                    raise DataError(f"{problems[0]}{others if problems[1:] else ''}; {LEAVE_OUT}")
                self._listings[split] = in_row_order(kept, split)
            return self._listings[split]

    def row_files(self, split: str, row: int) -> tuple[Path, ...]:
        sample = self.samples(split)[row]
        names = dict.fromkeys([sample.image, *(name for names in sample.labels.values() for name in names)])
        return tuple(self.root / name for name in names)

    def image_ids(self, split: str) -> tuple[str, ...]:
        return tuple(sample.id for sample in self.samples(split))

    def image_digests(
        self, split: str, *, index: DigestIndex | None = None, progress: Progress | None = None
    ) -> tuple[str, ...]:
        return digest_files(self.root, [sample.image for sample in self.samples(split)], index=index, progress=progress)

    def image_path(self, split: str, row: int) -> Path:
        """The file of an image."""
        return self.root / self.samples(split)[row].image

    def read_image(self, split: str, row: int) -> NDArray[np.uint8]:
        sample = self._readable_sample(split, row)
        return decode_image(self.root / sample.image, apply_exif=self.colour != COLOUR_AS_STORED)

    def read_annotation(self, split: str, row: int, kind: str) -> NDArray[Any]:
        self._require_kind(kind)
        return self.read_labels(self._readable_sample(split, row), kind)

    def annotation_digest(
        self, split: str, kind: str, *, index: DigestIndex | None = None, progress: Progress | None = None
    ) -> str:
        """From the ids, and the bytes of the files that the kind is read from."""
        self._require_kind(kind)
        samples = self.samples(split)
        names = [name for sample in samples for name in sample.labels[kind]]
        digests = iter(digest_files(self.root, names, index=index, progress=progress))
        return digest_of([[s.id, *(next(digests) for _ in s.labels[kind])] for s in samples])

    def box_rows(self, split: str) -> int:
        if BOXES not in self.annotations:
            return super().box_rows(split)
        self._require_split(split)
        return 1 + self.most_objects

    def _readable_sample(self, split: str, row: int) -> Sample:
        sample = self.samples(split)[row]
        if sample.problem:
            raise DataError(sample.problem)
        return sample


def in_row_order(samples: Iterable[Sample], split: str) -> tuple[Sample, ...]:
    """Training samples in :func:`sample_order` of their ids, others as they are."""
    return tuple(sorted(samples, key=lambda sample: sample_key(sample.id)) if split == "train" else samples)


def require_same_size(labels: NDArray[Any], path: Path, image: tuple[int, int], image_path: Path) -> None:
    """Raise :class:`DataError` where a label map does not have the size (height, width) of its image."""
    if labels.shape[:2] != image:
        raise DataError(
            f"{path} has {labels.shape[0]} x {labels.shape[1]} pixels (height x width), its image {image_path} has "
            f"{image[0]} x {image[1]}; labels must lie on the image's own pixels",
            path=path,
        )


def require_size_of(image_path: Path, labels: NDArray[Any], path: Path) -> None:
    """Raise :class:`DataError` where a label map does not have the size of its image, as that is stored."""
    require_same_size(labels, path, image_size(image_path), image_path)


def read_map_of_image(
    path: Path, image_path: Path, allowed: NDArray[np.bool_] | None = None, expected: str = ""
) -> NDArray[np.int32]:
    """(h, w) int32: an index map as ``read_index_map`` gives it, of its image's size; raises as that does.

    With ``allowed`` also for a value v that is not ``allowed[v]``; ``expected`` says which are.
    """
    labels = read_index_map(path)
    require_size_of(image_path, labels, path)
    if allowed is not None:
        require_values(labels, allowed, path, expected)
    return labels


def read_depth_of_image(path: Path, image_path: Path, *, steps_per_metre: int) -> NDArray[np.float32]:
    """(h, w) float32 metres: a depth map as ``read_depth_png`` gives it, of its image's size; raises as that does."""
    depth = read_depth_png(path, steps_per_metre=steps_per_metre)
    require_size_of(image_path, depth, path)
    return depth
