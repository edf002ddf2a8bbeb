"""NYU Depth V2 (Silberman et al. 2012, "Indoor Segmentation and Support Inference from RGBD Images")."""

from __future__ import annotations

from pathlib import Path

from deapcache.datasets.base import DATASETS, Dataset, DatasetEntry, SplitStatus
from deapcache.datasets.folders import absent, not_under
from deapcache.datasets.nyuv2_mat import LABELLED, SPLITS, NyuInpainted, NyuLabelled
from deapcache.datasets.nyuv2_pairs import NyuPairs, expected, pairs_in, split_folder

LAYOUT_MAT = """\
nyu_depth_v2_labeled.mat                   1,449 images with depth, labels and instances
splits.mat                                 795 train, 654 test, which is our val
directly under the data root, or in its folder nyuv2/ or nyu_depth_v2/"""

LAYOUT = f"""{LAYOUT_MAT}
where there is no such .mat file, depth alone, from PNG files of 16 bits in millimetres:
{{train,test}}/rgb/NAME.png with {{train,test}}/depth_raw/NAME.png or {{train,test}}/depth/NAME.png, or
official_splits/{{train,test}}/SCENE/rgb_00045.jpg with sync_depth_00045.png"""

_FOLDERS = ("nyuv2", "nyu_depth_v2")
_COUNTS = {"train": 795, "val": 654}
_LICENCE = "none stated by its authors, who ask to be cited; for research"


def open_nyuv2(data_root: Path) -> Dataset:
    """NYUv2 with the depth that the sensor measured; raises :class:`MissingDataError` where there is none.

    The MATLAB file is taken where there is one, even if PNG pairs lie beside it: it has all annotations, unchanged.
    """
    if root := _root_of_mat(data_root):
        return NyuLabelled(root)
    if root := _root_of_pairs(data_root):
        return NyuPairs(root)
    raise not_under(
        data_root,
        "nyuv2",
        f"{LABELLED} with {SPLITS}, or {' or '.join(expected('train'))}, there or in its folder "
        f"{' or '.join(f'{name}/' for name in _FOLDERS)}",
    )


def open_inpainted(data_root: Path) -> NyuInpainted:
    """NYUv2 with in-painted depth, which needs the MATLAB file; raises :class:`MissingDataError` without it."""
    root = _root_of_mat(data_root)
    if root is None:
        raise not_under(
            data_root,
            "nyuv2-inpainted",
            f"{LABELLED} with {SPLITS}, there or in its folder {' or '.join(f'{name}/' for name in _FOLDERS)}",
        )
    return NyuInpainted(root)


def nyuv2_status(data_root: Path) -> dict[str, SplitStatus]:
    """What is there; of the MATLAB file, which is not opened, the official number of images."""
    root = _root_of_pairs(data_root)
    if root is None or _root_of_mat(data_root):
        return inpainted_status(data_root)
    return {split: _pairs_status(root, split) for split in NyuPairs.splits}


def inpainted_status(data_root: Path) -> dict[str, SplitStatus]:
    """Whether the two MATLAB files are there; they are not opened: the numbers of images are the official ones."""
    root = _root_of_mat(data_root) or data_root
    missing = absent([root / LABELLED, root / SPLITS])
    return {split: SplitStatus(images=0 if missing else n, missing=missing) for split, n in _COUNTS.items()}


def _pairs_status(root: Path, split: str) -> SplitStatus:
    folder = split_folder(root, split)
    if folder is None:
        return SplitStatus(images=0, missing=(" or ".join(str(root / name) for name in expected(split)),))
    pairs = pairs_in(folder)
    return SplitStatus(images=len(pairs), missing=tuple(sorted(absent([depth for _, _, depth in pairs]))[:3]))


def _possible_roots(data_root: Path) -> tuple[Path, ...]:
    return (data_root, *(data_root / name for name in _FOLDERS))


def _root_of_mat(data_root: Path) -> Path | None:
    return next((root for root in _possible_roots(data_root) if (root / LABELLED).is_file()), None)


def _root_of_pairs(data_root: Path) -> Path | None:
    roots = _possible_roots(data_root)
    return next((root for root in roots if any(split_folder(root, split) for split in NyuPairs.splits)), None)


DATASETS.add(
    "nyuv2",
    DatasetEntry(
        name="nyuv2",
        summary="NYU Depth V2: indoor photographs with the sensor's depth, and instances of 894 labels",
        layout=LAYOUT,
        licence=_LICENCE,
        open=open_nyuv2,
        status=nyuv2_status,
        official=_COUNTS,
        base_size=NyuLabelled.base_size,
        annotations=NyuLabelled.annotations,
    ),
)

DATASETS.add(
    "nyuv2-inpainted",
    DatasetEntry(
        name="nyuv2-inpainted",
        summary="NYU Depth V2 with the holes in its depth filled in by its authors; shares nyuv2's features",
        layout=LAYOUT_MAT,
        licence=_LICENCE,
        open=open_inpainted,
        status=inpainted_status,
        official=_COUNTS,
        base_size=NyuInpainted.base_size,
        annotations=NyuInpainted.annotations,
        images_name="nyuv2",
    ),
)
