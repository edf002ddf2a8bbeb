"""Datasets that are files in folders: one image file and its label files for each sample."""

from __future__ import annotations

import copy
import json
import threading
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deapcache.datasets.base import Dataset, sample_key
from deapcache.datasets.digests import DigestIndex
from deapcache.datasets.io import (
    COLOUR_AS_STORED,
    decode_picture,
    file_errors,
    image_size,
    missing_paths,
    read_index_map,
    require_values,
)
from deapcache.errors import LEAVE_OUT, DataError, MissingDataError, printable
from deapcache.recipe import digest_of_list

_SHARED = 256
"""Different texts of a column that are looked for again."""

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


class PackedTexts(Sequence[str]):
    """Many texts as one array of bytes: some 8 bytes each beside their characters, where a ``str`` has 57."""

    def __init__(self) -> None:
        self._joined = bytearray()
        self._ends = array("q", [0])
        self.order: NDArray[np.int64] = np.zeros(0, np.int64)
        """Which of them stands in each place."""

    def append(self, text: str) -> None:
        """Add a text."""
        self._joined += text.encode("utf-8", "surrogatepass")  # names of files may be no UTF-8
        self._ends.append(len(self._joined))

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[str]:
        return map(self.text, self.order.data)

    def __getitem__(self, place: int) -> str:  # type: ignore[override]
        """The text in a place; there are no slices."""
        return self.text(self.order[place])

    def text(self, number: int) -> str:
        """The text that was added so many texts after the first, whatever their order."""
        return self._joined[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogatepass")


class _TextsWithIds(PackedTexts):
    """Texts in which the id of their sample stands, such as the names of its files: 4 bytes each.

    NUL, which no file's name has, takes the place of the id, and what is left is kept once where many samples share it.
    """

    def __init__(self, ids: PackedTexts) -> None:
        super().__init__()
        self._ids = ids
        self._numbers = array("I")
        self._known: dict[str, int] = {}

    def append_with_id(self, text: str, id_: str) -> None:
        """Add the text of the sample ``id_``, the next one."""
        shared = text.replace(id_, "\0") if id_ else text
        if (number := self._known.get(shared)) is None:
            number = len(self._ends) - 1
            super().append(shared)
            if number < _SHARED:
                self._known[shared] = number
        self._numbers.append(number)

    def text(self, number: int) -> str:
        return super().text(self._numbers[number]).replace("\0", self._ids.text(number))


class SampleTable(Sequence[Sample]):
    """Samples in row order, packed: a dataset may have a million of them. A :class:`Sample` is made when asked for.

    Those of ``train`` stand in ``deapcache.datasets.base.sample_order`` of their ids, others as they are given.
    """

    def __init__(self, samples: Iterable[Sample], split: str) -> None:
        self.ids = PackedTexts()
        self.images, self._labels = _TextsWithIds(self.ids), _TextsWithIds(self.ids)
        self._problems: dict[int, str] = {}
        keys, count = bytearray(), 0
        for count, sample in enumerate(samples, start=1):
            self.ids.append(sample.id)
            self.images.append_with_id(sample.image, sample.id)
            labels = json.dumps(dict(sample.labels), ensure_ascii=False) if sample.labels else ""
            self._labels.append_with_id(labels, sample.id)
            if sample.problem:
                self._problems[count - 1] = sample.problem
            if split == "train":
                keys += sample_key(sample.id)[0][:8]
        order = np.arange(count)
        if split == "train":
            first = np.frombuffer(keys, ">u8")
            order = np.argsort(first, kind="stable")
            if (first[order[1:]] == first[order[:-1]]).any():  # once in ten million datasets of a million images
                self.ids.order = np.arange(count)
                order = np.array(sorted(range(count), key=lambda number: sample_key(self.ids[number])))
        for column in (self.ids, self.images, self._labels):
            column.order = order

    @property
    def problems(self) -> list[str]:
        """What is wrong with samples, in the order in which they were given."""
        return list(self._problems.values())

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> Sample:  # type: ignore[override]
        """The sample of a row; there are no slices."""
        place, labels = int(self.ids.order[row]), self._labels[row]
        return Sample(
            id=self.ids[row],
            image=self.images[row],
            labels={kind: tuple(names) for kind, names in json.loads(labels).items()} if labels else {},
            problem=self._problems.get(place, ""),
        )


class FileDataset(Dataset):
    """A dataset whose images and labels are files under ``root``, whose samples are listed when first needed.

    A subclass says which files make up a split, lists its samples and reads one annotation; finding the root, digests
    and images come from here, and so does leaving samples out. A copy that is tolerant, or lacks some images, lists
    anew and shares the rest.
    """

    colour: ClassVar[str] = COLOUR_AS_STORED

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[str, SampleTable] = {}
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
    def list_samples(self, split: str) -> Iterable[Sample]:
        """All samples of a split, by id; raises as :meth:`Dataset.image_ids` does.

        What concerns one image alone is better a sample's ``problem``, which can be left out.
        """

    @abstractmethod
    def read_labels(self, sample: Sample, kind: str) -> NDArray[Any]:
        """What :meth:`Dataset.read_annotation` gives, for a kind that the dataset has."""

    def samples(self, split: str) -> SampleTable:
        """The samples of a split, listed once; training images in ``deapcache.datasets.base.sample_order``."""
        self._require_split(split)
        with _LISTING:
            if split not in self._listings:
                with file_errors(self.root):
                    listed = SampleTable(self._included(split), split)
                if (problems := listed.problems) and not self._is_tolerant:
                    others = f" (so or otherwise, {len(problems)} of {len(listed)} images cannot be read)"
                    raise DataError(f"{problems[0]}{others if problems[1:] else ''}; {LEAVE_OUT}")
                self._listings[split] = listed
            return self._listings[split]

    def _included(self, split: str) -> Iterator[Sample]:
        """The samples that are not left out, with ids that can be written."""
        left_out = self.omitted.get(split, {})
        for sample in self.list_samples(split):
            id_ = sample.id if sample.id.isascii() else printable(sample.id)
            if id_ != sample.id:  # a name that is not UTF-8 can be written nowhere: the id shows its bytes
                problem = sample.problem or f"the name of {sample.image} is not UTF-8: rename it"
                sample = replace(sample, id=id_, problem=problem)
            if id_ not in left_out:
                yield sample

    def row_files(self, split: str, row: int) -> tuple[Path, ...]:
        sample = self.samples(split)[row]
        names = dict.fromkeys([sample.image, *(name for names in sample.labels.values() for name in names)])
        return tuple(self.root / name for name in names)

    def image_ids(self, split: str) -> tuple[str, ...]:
        return tuple(self.samples(split).ids)

    def image_digests(self, split: str, *, index: DigestIndex | None = None) -> Sequence[str]:
        return (index or DigestIndex()).digests(self.root, self.samples(split).images)

    def image_path(self, split: str, row: int) -> Path:
        """The file of an image."""
        return self.root / self.samples(split)[row].image

    def read_image(self, split: str, row: int) -> NDArray[np.uint8]:
        return np.array(self.decode(split, row))

    def picture(self, split: str, row: int) -> Image.Image:
        makes_its_own = type(self).read_image is not FileDataset.read_image
        return super().picture(split, row) if makes_its_own else self.decode(split, row)

    def decode(self, split: str, row: int) -> Image.Image:
        """The image of a row from its file, without copies; what :meth:`read_image` and :meth:`picture` give."""
        sample = self._readable_sample(split, row)
        return decode_picture(self.root / sample.image, apply_exif=self.colour != COLOUR_AS_STORED)

    def read_annotation(self, split: str, row: int, kind: str) -> NDArray[Any]:
        self._require_kind(kind)
        return self.read_labels(self._readable_sample(split, row), kind)

    def annotation_digest(self, split: str, kind: str, *, index: DigestIndex | None = None) -> str:
        """From the ids, and the bytes of the files that the kind is read from."""
        self._require_kind(kind)
        samples = self.samples(split)
        names = [name for sample in samples for name in sample.labels[kind]]
        digests = iter((index or DigestIndex()).digests(self.root, names))
        return digest_of_list([s.id, *(next(digests) for _ in s.labels[kind])] for s in samples)

    def require_parts(self, split: str, remark: str = "") -> tuple[Path, ...]:
        """:meth:`split_parts` of a split; raises :class:`MissingDataError` where some of them are not there."""
        parts = self.split_parts(self.root, split)
        if missing := missing_paths(parts):
            raise MissingDataError(
                f"{self.name} has no {split} split under {self.root}: {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing; put it there, or give another --data-root{remark}"
            )
        return parts

    def label_path(self, sample: Sample, kind: str) -> Path:
        """The file, or the first of the files, that an annotation is read from."""
        return self.root / sample.labels[kind][0]

    def read_index_map(self, sample: Sample, kind: str, allowed: NDArray[np.bool_], expected: str) -> NDArray[np.int32]:
        """(h, w) int32: the numbers in the index map of a kind, which has the size of its image.

        Raises as :func:`deapcache.datasets.io.read_index_map` does, and :class:`DataError` where the sizes differ or a
        number v is not ``allowed[v]``; ``expected`` says which are.
        """
        path = self.label_path(sample, kind)
        values = read_index_map(path)
        self.require_image_size(sample, values, path)
        require_values(values, allowed, path, expected)
        return values

    def require_image_size(self, sample: Sample, labels: NDArray[Any], path: Path) -> None:
        """Raise :class:`DataError` where a label map (h, w, ...) does not have the size of its image as it is read."""
        image = self.root / sample.image
        height, width = image_size(image, apply_exif=self.colour != COLOUR_AS_STORED)
        if labels.shape[:2] != (height, width):
            raise DataError(
                f"{path} has {labels.shape[0]} x {labels.shape[1]} pixels (height x width), its image {image} has "
                f"{height} x {width}; labels must lie on the image's own pixels",
                path=path,
            )

    def _readable_sample(self, split: str, row: int) -> Sample:
        sample = self.samples(split)[row]
        if sample.problem:
            raise DataError(sample.problem)
        return sample
