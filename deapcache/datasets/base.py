"""What every dataset offers, the registry that names them, and reading many of their rows at once."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deapcache.annotations import BOXES
from deapcache.datasets.digests import DigestIndex
from deapcache.datasets.io import describe_folder, file_errors, missing_paths, stems
from deapcache.errors import DataError, DeapcacheError, MissingDataError, UnknownNameError, UsageError
from deapcache.machine import cpu_count
from deapcache.plugins import Registry
from deapcache.processes import process_pool
from deapcache.recipe import digest_of

Job = TypeVar("Job")
Result = TypeVar("Result")

SUBSET_SEED = 0


def sample_order(ids: Iterable[str]) -> list[str]:
    """The ids by ascending sha256 of ``"SEED:id"``, which no other id has a part in.

    The first 8,000 and the first 100,000 of them are seeded random choices, the smaller one within the larger, that
    everybody gets alike and that stay as they are when images are added elsewhere; in a cache they are its first rows,
    so that a subset costs a subset's shards.
    """
    return sorted(ids, key=sample_key)


def sample_key(name: str) -> tuple[bytes, str]:
    """Where an id stands in :func:`sample_order`."""
    return hashlib.sha256(f"{SUBSET_SEED}:{name}".encode()).digest(), name


class Dataset(ABC):
    """Images in splits, with their annotations, numbered by row.

    Rows are 0-based positions in :meth:`image_ids`; the order never depends on the file system.
    """

    name: str
    images_name: str
    """Owner of the image set: datasets that annotate the same images share their caches under this name."""
    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    base_size: ClassVar[tuple[int, int]] = (224, 224)
    """Default height and width of base images and targets."""
    annotations: tuple[str, ...]
    """Kinds of annotation it has, label types of ``deapcache.annotations``; ``boxes`` where ``instances`` are."""
    classes: tuple[str, ...] = ()
    """Class names by value of the ``classes`` maps; empty without one."""
    colour: ClassVar[str]
    """Recipe field: how its images become RGB, see ``deapcache.datasets.io``."""
    most_objects: ClassVar[int] = 0
    """Most objects an image may have; the ``boxes`` table of every image has room for them."""
    computes_images: ClassVar[bool] = False
    """Whether making an image is Python's own work, which runs in processes, not a library's, which runs in threads."""
    omitted: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    """Split → image id → why it was left out, by :meth:`without`."""

    summary: ClassVar[str] = ""
    """What it is, in a line."""
    layout: ClassVar[str] = "nothing is needed"
    """Which files are expected where under the data root."""
    licence: ClassVar[str] = ""
    official: ClassVar[Mapping[str, int]] = MappingProxyType({})
    """Images of each split as it is distributed, of splits whose number is known."""
    options: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    """Kind → choices this reader made for it, as JSON; kinds without any may be left out."""

    places: ClassVar[tuple[str, ...]] = ()
    """Folders below the data root that may hold it; none where it needs no files. The class is called with the first
    that has a split."""
    expected: ClassVar[str] = ""
    """What of it may lie under the data root, for the error where nothing does."""
    hint: ClassVar[str] = ""
    """What that error says besides; ends in a space."""

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        """Files and folders that a split consists of; the first is the folder of its images."""
        return (root,)

    @classmethod
    def has_split(cls, root: Path, split: str) -> bool:
        """Whether enough of a split is in a folder for the dataset to lie there."""
        return not missing_paths(cls.split_parts(root, split))

    @classmethod
    def split_status(cls, root: Path, split: str) -> SplitStatus:
        """What is there of one split; quick: no image is read. Raises :class:`DataError` for a listing that is none."""
        parts = cls.split_parts(root, split)
        return SplitStatus(images=len(stems(parts[0], ".jpg")), missing=missing_paths(parts))

    @classmethod
    def find_root(cls, data_root: Path) -> Path | None:
        """The first of its places under a data root that has a split; None where none has."""
        roots = (data_root / place for place in cls.places)
        return next((root for root in roots if any(cls.has_split(root, split) for split in cls.splits)), None)

    @classmethod
    def open(cls, data_root: Path) -> Dataset:
        """The dataset with its files under a data root; raises :class:`MissingDataError` where they are not there."""
        if not cls.places:
            return cls()
        root = cls.find_root(data_root)
        if root is None:
            raise MissingDataError(
                f"{cls.name} is not under {data_root}: expected {cls.expected}; found {describe_folder(data_root)}. "
                f"{cls.hint}Give the folder with --data-root or DEAPCACHE_DATA"
            )
        return cls(root)  # type: ignore[call-arg]

    @classmethod
    def status(cls, data_root: Path) -> dict[str, SplitStatus]:
        """What is there per split under a data root; quick: no image is read."""
        if not cls.places:
            return {split: SplitStatus(images=count) for split, count in cls.official.items()}
        root = cls.find_root(data_root) or data_root / cls.places[0]
        found = {}
        for split in cls.splits:
            try:
                found[split] = cls.split_status(root, split)
            except DataError as error:
                found[split] = SplitStatus(images=0, missing=(f"a list of the right form: {error}",))
        return found

    @classmethod
    def member(cls, name: str) -> type[Dataset]:
        """The entry of ``FAMILY:NAME``, for a name that many data sets share; raises :class:`UnknownNameError`."""
        raise UnknownNameError(f"unknown dataset '{cls.name}:{name}': {cls.name} is one data set, write {cls.name}")

    @abstractmethod
    def image_ids(self, split: str) -> tuple[str, ...]:
        """Ids of all images of a split, in row order.

        Raises :class:`MissingDataError` where the split's files are absent, :class:`DataError` where they contradict
        each other and :class:`UsageError` for an unknown split, as all methods that take a split do.
        """

    @abstractmethod
    def image_digests(self, split: str, *, index: DigestIndex | None = None) -> Sequence[str]:
        """What identifies each image's content, in row order: sha256 of the file's bytes, hexadecimal.

        ``index`` remembers digests between runs.
        """

    @abstractmethod
    def read_image(self, split: str, row: int) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB at its native size; raises :class:`DataError` that names the file."""

    def picture(self, split: str, row: int) -> Image.Image:
        """:meth:`read_image` as an RGB picture of Pillow's, which is what resizing takes; raises as it does."""
        return Image.fromarray(self.read_image(split, row))

    @abstractmethod
    def read_annotation(self, split: str, row: int, kind: str) -> NDArray[Any]:
        """(h, w) at the image's native size; ``boxes``: a table.

        ``instances``: int32, 0 background, 1..K objects, -1 crowd. ``classes``: uint8 or int16, :data:`VOID`
        unlabelled. ``depth``: float32 metres, 0 unknown. ``boxes``: (n + 1, 7) float64, whose columns are
        ``deapcache.annotations.COLUMNS``, pixels of the image as it is on disk; the first row is the image itself.
        Raises :class:`UsageError` for a kind it lacks.
        """

    def box_rows(self, split: str) -> int:
        """Rows that the ``boxes`` table of every image of a split fits into: their length in a target cache.

        One for the image and :attr:`most_objects`; raises :class:`UsageError` for a dataset without boxes.
        """
        self._require_kind(BOXES)
        self._require_split(split)
        return 1 + self.most_objects

    @abstractmethod
    def annotation_digest(self, split: str, kind: str, *, index: DigestIndex | None = None) -> str:
        """Digest of all that :meth:`read_annotation` depends on in a split, 64 hexadecimal characters.

        ``index`` as for :meth:`image_digests`.
        """

    def target_options(self, kind: str) -> dict[str, Any]:
        """:attr:`options` of a kind, which are recorded in the target recipe; raises :class:`UsageError`."""
        self._require_kind(kind)
        return dict(self.options.get(kind, {}))

    def tolerant(self) -> Dataset:
        """This dataset with every row listed: what is wrong with one image's files is told when that row is read.

        Listing raises only what concerns a split as a whole, for those who ask of each image whether it can be read.
        """
        return self

    def row_files(self, split: str, row: int) -> tuple[Path, ...]:
        """The files that a row's image and annotations are read from; none where that is not known."""
        return ()

    def without(self, omitted: Mapping[str, Mapping[str, str]]) -> Dataset:
        """This dataset less some images: split → image id → the reason, which :attr:`omitted` keeps.

        The other rows move up, and all digests are those of what is left.
        """
        return Selection(self, omitted)

    def omitted_and(self, more: Mapping[str, Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
        """:attr:`omitted` with more left out."""
        return {**self.omitted, **{split: {**self.omitted.get(split, {}), **ids} for split, ids in more.items()}}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def _require_split(self, split: str) -> None:
        if split not in self.splits:
            raise UsageError(f"dataset {self.name!r} has no split {split!r}: choose {' or '.join(self.splits)}")

    def _require_kind(self, kind: str) -> None:
        if kind not in self.annotations:
            raise UsageError(f"dataset {self.name!r} has no annotation {kind!r}: it has {', '.join(self.annotations)}")


@dataclass(frozen=True, kw_only=True)
class SplitStatus:
    """What a quick look found of one split."""

    images: int
    """Image files there (not compared with the listing)."""
    missing: tuple[str, ...] = ()
    """Files and folders that are expected and not there."""

    @property
    def is_usable(self) -> bool:
        """Whether the split can be opened."""
        return self.images > 0 and not self.missing


DATASETS: Registry[type[Dataset]] = Registry(
    "dataset",
    modules=(
        "deapcache.datasets.ade20k",
        "deapcache.datasets.bsds500",
        "deapcache.datasets.cityscapes",
        "deapcache.datasets.coco",
        "deapcache.datasets.diode",
        "deapcache.datasets.folder",
        "deapcache.datasets.kitti",
        "deapcache.datasets.nyuv2",
        "deapcache.datasets.nyuv2_pairs",
        "deapcache.datasets.pascal_part",
        "deapcache.datasets.scenes",
        "deapcache.datasets.spair",
        "deapcache.datasets.voc",
    ),
)
"""All datasets by name: classes, whose attributes say what is known without opening one."""


def images_owner(name: str) -> str:
    """The name under which base images and features of the dataset ``name`` are cached.

    Its own, unless it is registered here as one that annotates the images of another.
    """
    return DATASETS.get(name).images_name if name in DATASETS else name


def dataset_entry(name: str) -> type[Dataset]:
    """The entry of ``coco``, or of ``folder:NAME``, which is one of many; raises :class:`UnknownNameError`."""
    family, colon, member = name.partition(":")
    if not colon or family not in DATASETS:
        return DATASETS.get(name)
    return DATASETS.get(family).member(member)


def open_dataset(name: str, data_root: Path) -> Dataset:
    """The dataset ``name`` with its files under ``data_root``.

    Raises :class:`UnknownNameError`, and :class:`MissingDataError` that says what is expected where and what was found.
    """
    with file_errors(Path(data_root)):
        try:
            entry = dataset_entry(name)
        except UnknownNameError as error:
            if not (Path(data_root) / name).is_dir():
                raise
            raise UnknownNameError(f"{error}; the folder {Path(data_root) / name} is folder:{name}") from None
        return entry.open(Path(data_root))


def dataset_status(entry: type[Dataset], data_root: Path) -> dict[str, SplitStatus]:
    """:meth:`Dataset.status`; folders that cannot be looked into are told as what is missing, not raised."""
    try:
        with file_errors(data_root):
            return entry.status(data_root)
    except DeapcacheError as error:
        return dict.fromkeys(Dataset.splits, SplitStatus(images=0, missing=(f"access: {error}",)))


_COPIED = (
    "name", "images_name", "splits", "base_size", "annotations", "classes", "colour", "computes_images",
)  # fmt: skip


class Selection(Dataset):
    """Any dataset less some of its images; the others move up.

    Its digests are made from those of the whole. A dataset that reads each image from a file of its own has a
    :meth:`Dataset.without` that does better: what was left out may then be missing, too.
    """

    def __init__(self, whole: Dataset, omitted: Mapping[str, Mapping[str, str]]) -> None:
        vars(self).update({name: getattr(whole, name) for name in _COPIED})
        self.omitted = whole.omitted_and(omitted)
        self._whole = whole
        self._kept: dict[str, list[int]] = {}

    def tolerant(self) -> Selection:
        return Selection(self._whole.tolerant(), self.omitted)

    def image_ids(self, split: str) -> tuple[str, ...]:
        ids = self._whole.image_ids(split)
        return tuple(ids[row] for row in self._rows(split))

    def image_digests(self, split: str, *, index: DigestIndex | None = None) -> Sequence[str]:
        digests = self._whole.image_digests(split, index=index)
        return tuple(digests[row] for row in self._rows(split))

    def read_image(self, split: str, row: int) -> NDArray[np.uint8]:
        return self._whole.read_image(split, self._rows(split)[row])

    def picture(self, split: str, row: int) -> Image.Image:
        return self._whole.picture(split, self._rows(split)[row])

    def read_annotation(self, split: str, row: int, kind: str) -> NDArray[Any]:
        return self._whole.read_annotation(split, self._rows(split)[row], kind)

    def row_files(self, split: str, row: int) -> tuple[Path, ...]:
        return self._whole.row_files(split, self._rows(split)[row])

    def box_rows(self, split: str) -> int:
        return self._whole.box_rows(split)

    def annotation_digest(self, split: str, kind: str, *, index: DigestIndex | None = None) -> str:
        whole = self._whole.annotation_digest(split, kind, index=index)
        return digest_of([whole, self.image_ids(split)]) if self.omitted.get(split) else whole

    def target_options(self, kind: str) -> dict[str, Any]:
        return self._whole.target_options(kind)

    def _rows(self, split: str) -> list[int]:
        if split not in self._kept:
            left_out = self.omitted.get(split, {})
            rows = [row for row, name in enumerate(self._whole.image_ids(split)) if name not in left_out]
            self._kept[split] = rows
        return self._kept[split]


@contextmanager
def workers(dataset: Dataset) -> Iterator[Executor]:
    """Threads where decoding releases the interpreter lock, processes where making an image is Python's own work.

    What has not begun when the block is left is not done. Raises what :func:`process_pool` raises.
    """
    count = cpu_count()
    if dataset.computes_images:
        with process_pool(count, f"reading {dataset.name}") as processes:
            yield processes
        return
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_order(pool: Executor, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
    """Jobs with their results, in the order of the jobs, with a bounded number of them done ahead."""
    ahead: deque[tuple[Job, Future[Result]]] = deque()
    most = 4 * cpu_count()
    for job in jobs:
        ahead.append((job, pool.submit(function, job)))
        if len(ahead) >= most:
            first, future = ahead.popleft()
            yield first, future.result()
    for job, future in ahead:
        yield job, future.result()
