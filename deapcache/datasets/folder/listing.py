"""Which files of a user's own folder belong together, and which do not fit."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deapcache.datasets.boxes import BOXES
from deapcache.datasets.files import Sample
from deapcache.errors import DataError
from deapcache.locations import not_reached, read_file

IMAGES = "images"
KINDS = {"labels": "classes", "instances": "instances", "depth": "depth"}
"""Folder → kind of annotation."""

SUFFIXES = {"labels": (".png",), "instances": (".png",), "depth": (".png", ".npy")}
"""Folder → endings of its files."""

Files = Mapping[str, Sequence[str]]
"""Id → files that have it, relative to their folder."""


def list_files(folder: Path) -> dict[str, list[str]]:
    """All files below a folder by id, which is their path without its ending; what begins with a dot is left alone.

    Ids are in Unicode's composed form, since some file systems decompose names. Links to folders are followed. Raises
    :class:`DataError` for a folder that cannot be listed, or is met twice.
    """
    found: dict[str, list[str]] = {}
    met: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_folder):
        if (true := os.path.realpath(place)) in met:
            raise DataError(f"{place} is a link to a folder that is listed already: take the link away")
        met.add(true)
        folders[:] = [name for name in folders if not name.startswith(".")]
        base = PurePosixPath(os.path.relpath(place, folder))
        for name in names:
            if not name.startswith("."):
                found.setdefault(_id_of(base / name), []).append(str(base / name))
    return {id_: sorted(files) for id_, files in found.items()}


@dataclass(frozen=True)
class Gathered:
    """The files of ``root/base`` by id: images, and annotations by their folder."""

    root: Path
    base: str
    """``train``, or empty where the folders of images and annotations are in ``root`` itself."""
    images: Files
    annotations: Mapping[str, Files]

    def samples(self) -> list[Sample]:
        """A sample of everything that has an image or an annotation, sorted by id."""
        return [self._sample(id_) for id_ in sorted(set(self.images).union(*self.annotations.values()))]

    def named(self, lists: Mapping[str, Sequence[str]], path: Path) -> dict[str, list[Sample]]:
        """Split → the samples that the file ``path`` lists for it, by id or by file below ``images/``; sorted by id.

        Raises :class:`DataError` where it lists an image twice.
        """
        id_of_file = {_composed(file): id_ for id_, files in self.images.items() for file in files}
        first: dict[str, str] = {}
        for split, names in lists.items():
            for name in names:
                id_ = id_of_file.get(_composed(name), _composed(name))
                if id_ in first:
                    raise DataError(f"{path} lists image {id_} twice: in {first[id_]} and in {split}")
                first[id_] = split
        return {split: [self._sample(id_) for id_ in sorted(first) if first[id_] == split] for split in lists}

    def _sample(self, id_: str) -> Sample:
        images = self.images.get(id_, ())
        files = {folder: found.get(id_, ()) for folder, found in self.annotations.items()}
        problems = [self._image_problem(id_, images, files)]
        problems += [self._file_problem(id_, folder, found) for folder, found in files.items()]
        labels: dict[str, tuple[str, ...]] = {
            KINDS[folder]: (self._name(folder, *found[:1]),) for folder, found in files.items()
        }
        if "instances" in labels:
            labels[BOXES] = labels["instances"] + labels.get("classes", ())
        image = self._name(IMAGES, *images[:1])
        return Sample(id=id_, image=image, labels=labels, problem=_printable(next(filter(None, problems), "")))

    def _image_problem(self, id_: str, images: Sequence[str], files: Mapping[str, Sequence[str]]) -> str:
        if len(images) > 1:
            return (
                f"{self._path(IMAGES, images[0])} and {images[1]} are two images of one name, so that annotations "
                "would belong to both: rename one of them"
            )
        if not images:
            annotation = next((self._path(folder, found[0]) for folder, found in files.items() if found), None)
            asked = f"which {annotation} is for" if annotation else "which is listed"
            return f"{self._path(IMAGES)} has no image {id_}, {asked}: put it there, or take the other away"
        return "" if _is_utf8(images[0]) else f"the name of {self._path(IMAGES, images[0])} is not UTF-8: rename it"

    def _file_problem(self, id_: str, folder: str, found: Sequence[str]) -> str:
        endings = " or ".join(SUFFIXES[folder])
        if not found:
            return f"{self._path(folder)} has no {id_}{endings}: every image needs an annotation there"
        if len(found) > 1:
            return f"{self._path(folder, found[0])} and {found[1]} are two annotations of one image: take one away"
        if not found[0].lower().endswith(SUFFIXES[folder]):
            return f"{self._path(folder, found[0])} is no annotation: expected a file that ends in {endings}"
        return ""

    def _name(self, *parts: str) -> str:
        return "/".join(filter(None, (self.base, *parts)))

    def _path(self, *parts: str) -> Path:
        return self.root / self._name(*parts)


def gather(root: Path, base: str, kinds: Sequence[str]) -> Gathered:
    """All files of ``root/base`` that are images or annotations of these kinds; raises :class:`DataError`."""
    folders = [folder for folder, kind in KINDS.items() if kind in kinds]
    place = root / base
    return Gathered(root, base, list_files(place / IMAGES), {name: list_files(place / name) for name in folders})


def read_split_file(path: Path, splits: Sequence[str]) -> dict[str, list[str]]:
    """Split → names of images; raises :class:`DataError` that names the file for anything else."""
    try:
        content = json.loads(read_file(path))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error})") from None
    if isinstance(content, dict) and set(content) <= set(splits) and all(map(_is_names, content.values())):
        return content
    raise DataError(
        f'{path} is no split file: expected {{"train": ["a", "b"], "val": ["c"]}}, lists of the names of images, '
        f"under {' and '.join(splits)} and nothing else"
    )


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _refuse_folder(error: OSError) -> None:
    raise not_reached(error, error.filename) from None


def _id_of(path: PurePosixPath) -> str:
    # a name that is not UTF-8 cannot be written anywhere: the id shows its bytes
    return _composed(os.fsencode(path.with_suffix("")).decode("utf-8", "backslashreplace"))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _is_utf8(name: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in name)  # bytes that Python could not decode


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
