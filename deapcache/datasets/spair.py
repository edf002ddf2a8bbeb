"""SPair-71k: pairs of photographs of one kind of object with corresponding keypoints (Min et al. 2019)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.base import DATASETS, SplitStatus
from deapcache.datasets.files import FileDataset, Sample
from deapcache.datasets.io import missing_paths, read_bytes, read_json
from deapcache.errors import DataError, UsageError
from deapcache.recipe import digest_of

LAYOUT = """\
JPEGImages/CATEGORY/*.jpg                  1,800 images of 18 categories
Layout/large/{trn,test}.txt                the pairs: 53,340 for train, 12,234 of the official test as val
PairAnnotation/{trn,test}/PAIR.json        keypoints and boxes of each pair
directly under the data root, or in its folder SPair-71k/ or spair-71k/"""

_PARTS = {"train": "trn", "val": "test"}
_PAIR = re.compile(r"\d+-(?P<source>[^-:/]+)-(?P<target>[^-:/]+):(?P<category>[^-:/]+)")
_ADVICE = "unpack the archive again"


@dataclass(frozen=True, kw_only=True)
class KeypointPair:
    """Two images, and the keypoints that both show."""

    name: str
    images: tuple[str, str]
    """Ids of source and target."""
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """Height and width of both, pixels."""
    points: NDArray[np.float64]
    """(2, keypoints, 2): x and y in the source and in the target, pixels from the upper left corner."""
    extent: float
    """The longer side of the object's box in the target, pixels."""


class Spair71k(FileDataset):
    """The images of SPair-71k that its pairs name; what belongs together in them is in :meth:`pairs`.

    There is no label of a pixel. ``train`` is the official ``trn``, ``val`` the official ``test``; they share no image.
    """

    name = images_name = "spair-71k"
    annotations = ()
    summary = "SPair-71k: pairs of photographs with corresponding keypoints, for deapcache correspondence"
    layout = LAYOUT
    licence = "none stated by its authors; the photographs are those of PASCAL VOC and PASCAL3D+"
    places = ("SPair-71k", "spair-71k", "")
    expected = "Layout/large/ with JPEGImages/, there or in its folder SPair-71k/ or spair-71k/"

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        return root / "Layout" / "large" / f"{_PARTS[split]}.txt", root / "JPEGImages"

    @classmethod
    def split_status(cls, root: Path, split: str) -> SplitStatus:
        """Images that the list names; reads the list."""
        if missing := missing_paths(cls.split_parts(root, split)):
            return SplitStatus(images=0, missing=missing)
        return SplitStatus(images=len({id_ for _, *ids in read_pairs(root, split) for id_ in ids}))

    def list_samples(self, split: str) -> Sequence[Sample]:
        self.require_parts(split)
        ids = sorted({id_ for _, *ids in read_pairs(self.root, split) for id_ in ids})
        return [Sample(id=id_, image=f"JPEGImages/{id_}.jpg", labels={}) for id_ in ids]

    def read_labels(self, sample: Sample, kind: str) -> NDArray[Any]:
        raise UsageError(f"dataset {self.name!r} has no label of a pixel, but pairs (`deapcache correspondence`)")

    def pairs(self, split: str, limit: int | None = None) -> list[KeypointPair]:
        """The pairs of a split in the order of its list, or the first of them; each is a small file.

        Raises :class:`MissingDataError` and :class:`DataError`, which name the file.
        """
        self._require_split(split)
        self.require_parts(split)
        listed = read_pairs(self.root, split)[:limit]
        folder = self.root / "PairAnnotation" / _PARTS[split]
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda one: read_pair(folder, *one), listed))


def read_pairs(root: Path, split: str) -> list[tuple[str, str, str]]:
    """Name, source and target (``CATEGORY/IMAGE``) of each pair of the list of a split, in its order."""
    path = root / "Layout" / "large" / f"{_PARTS[split]}.txt"
    found = []
    for number, line in enumerate(read_bytes(path, "list").decode(errors="replace").splitlines(), start=1):
        match = _PAIR.fullmatch(line.strip())
        if match is not None:
            source, target = (f"{match['category']}/{match[name]}" for name in ("source", "target"))
            found.append((match[0], source, target))
        elif line.strip():
            raise DataError(
                f"{path}, line {number} reads {line[:200]!r}; expected NUMBER-SOURCE-TARGET:CATEGORY; {_ADVICE}",
                path=path,
            )
    if not found:
        raise DataError(f"{path} lists no pair; {_ADVICE}", path=path)
    return found


def read_pair(folder: Path, name: str, source: str, target: str) -> KeypointPair:
    """One pair's file, whose name may have ``_`` where the list has ``:``, as file systems without colons need it."""
    path = folder / f"{name}.json"
    if not path.exists() and (other := folder / f"{name.replace(':', '_')}.json").exists():
        path = other
    facts = read_json(path, "pair", _ADVICE)
    try:
        points = np.array([facts["src_kps"], facts["trg_kps"]], np.float64)
        (width, height), (target_width, target_height) = facts["src_imsize"][:2], facts["trg_imsize"][:2]
        left, top, right, bottom = (float(side) for side in facts["trg_bndbox"])
        sizes = (int(height), int(width)), (int(target_height), int(target_width))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is no pair of SPair-71k ({type(error).__name__}: {error}); {_ADVICE}", path=path
        ) from None
    extent = max(right - left, bottom - top)
    if (
        points.ndim != 3
        or points.shape[2] != 2
        or not np.isfinite(points).all()
        or extent <= 0
        or min(map(min, sizes)) < 1
    ):
        raise DataError(
            f"{path} is no pair of SPair-71k: expected as many keypoints x, y in src_kps as in trg_kps, sizes above 0 "
            f"and a box with an extent; found shapes {points.shape[1:]}, {sizes}, {facts['trg_bndbox']}; {_ADVICE}",
            path=path,
        )
    return KeypointPair(name=name, images=(source, target), sizes=sizes, points=points, extent=extent)


def pairs_digest(pairs: Sequence[KeypointPair]) -> str:
    """Digest of all that a score takes from pairs."""
    return digest_of([[one.name, one.images, one.sizes, one.points.tolist(), one.extent] for one in pairs])


DATASETS["spair-71k"] = Spair71k
