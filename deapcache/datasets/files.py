"""Datasets that are files in folders: one image file and its label files for each sample."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.boxes import BOXES
from deapcache.datasets.decoding import COLOUR_AS_STORED, decode_image, image_size
from deapcache.datasets.digests import DigestIndex, Progress, digest_files
from deapcache.datasets.folders import listing
from deapcache.datasets.labels import read_index_map
from deapcache.datasets.listed import ListedDataset
from deapcache.datasets.ordering import sample_key
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


class FileDataset(ListedDataset[Sample]):
    """A dataset whose images and labels are files under ``root``.

    A subclass lists the samples of a split and reads one annotation; digests and images come from here, and so
    does leaving samples out.
    """

    colour: ClassVar[str] = COLOUR_AS_STORED
    most_objects: ClassVar[int] = 0
    """Most objects an image may have; the ``boxes`` table of every image has room for them."""

    @abstractmethod
    def list_samples(self, split: str) -> Sequence[Sample]:
        """All samples of a split, by id; raises as :meth:`Dataset.image_ids` does.

        What concerns one image alone is better a sample's ``problem``, which can be left out.
        """

    @abstractmethod
    def read_labels(self, sample: Sample, kind: str) -> NDArray[Any]:
        """What :meth:`Dataset.read_annotation` gives, for a kind that the dataset has."""

    def samples(self, split: str) -> tuple[Sample, ...]:
        """The samples of a split, listed once; training images in ``deapcache.datasets.ordering.sample_order``."""
        self._require_split(split)
        with _LISTING:
            if split not in self._listings:
                left_out = self.omitted.get(split, {})
                with listing(self.root):
                    samples = [_of_utf8(sample) for sample in self.list_samples(split)]
                kept = tuple(sample for sample in samples if sample.id not in left_out)
                if not self._is_tolerant:
                    _refuse_problems(kept)
                self._listings[split] = _ordered(kept, shuffled=split == "train")
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
        return self._digests([sample.image for sample in self.samples(split)], index, progress)

    def image_path(self, split: str, row: int) -> Path:
        """The file of an image."""
        return self.root / self.samples(split)[row].image

    def read_image(self, split: str, row: int) -> NDArray[np.uint8]:
        self._sound_sample(split, row)
        return decode_image(self.image_path(split, row), apply_exif=self.colour != COLOUR_AS_STORED)

    def read_annotation(self, split: str, row: int, kind: str) -> NDArray[Any]:
        self._require_kind(kind)
        return self.read_labels(self._sound_sample(split, row), kind)

    def annotation_digest(
        self, split: str, kind: str, *, index: DigestIndex | None = None, progress: Progress | None = None
    ) -> str:
        """From the ids, and the bytes of the files that the kind is read from."""
        self._require_kind(kind)
        samples = self.samples(split)
        digests = iter(self._digests([name for s in samples for name in s.labels[kind]], index, progress))
        return digest_of([[s.id, *(next(digests) for _ in s.labels[kind])] for s in samples])

    def box_rows(self, split: str) -> int:
        if BOXES not in self.annotations:
            return super().box_rows(split)
        self._require_split(split)
        return 1 + self.most_objects

    def _sound_sample(self, split: str, row: int) -> Sample:
        sample = self.samples(split)[row]
        if sample.problem:
            raise DataError(sample.problem)
        return sample

    def _digests(self, names: list[str], index: DigestIndex | None, progress: Progress | None) -> tuple[str, ...]:
        return digest_files(self.root, names, index=index, progress=progress)


def _of_utf8(sample: Sample) -> Sample:
    """A sample whose id can be written anywhere; one whose name is not UTF-8 has its bytes in it, and a problem."""
    id_ = printable(sample.id)
    problem = f"the name of {sample.image} is not UTF-8: rename it"
    return sample if id_ == sample.id else replace(sample, id=id_, problem=sample.problem or problem)


def _ordered(samples: Sequence[Sample], *, shuffled: bool) -> tuple[Sample, ...]:
    return tuple(sorted(samples, key=lambda sample: sample_key(sample.id)) if shuffled else samples)


def _refuse_problems(samples: Sequence[Sample]) -> None:
    problems = [sample.problem for sample in samples if sample.problem]
    if problems:
        more = f" (so or otherwise, {len(problems)} of {len(samples)} images cannot be read)" if problems[1:] else ""
        raise DataError(f"{problems[0]}{more}; {LEAVE_OUT}")


def require_same_size(labels: NDArray[Any], path: Path, image: tuple[int, int], image_path: Path) -> None:
    """Raise :class:`DataError` where a label map does not have the size (height, width) of its image."""
    if labels.shape[:2] != image:
        raise DataError(
            f"{path} has {labels.shape[0]} x {labels.shape[1]} pixels (height x width), its image {image_path} has "
            f"{image[0]} x {image[1]}; labels must lie on the image's own pixels"
        )


def require_size_of(image_path: Path, labels: NDArray[Any], path: Path) -> None:
    """Raise :class:`DataError` where a label map does not have the size of its image, as that is stored."""
    require_same_size(labels, path, image_size(image_path), image_path)


def read_map_of_image(path: Path, image_path: Path) -> NDArray[np.int32]:
    """(h, w) int32: an index map as ``read_index_map`` gives it, of its image's size; raises as that does."""
    labels = read_index_map(path)
    require_size_of(image_path, labels, path)
    return labels
