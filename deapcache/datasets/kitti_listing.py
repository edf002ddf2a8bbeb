"""The lists that name the images of KITTI's Eigen split, in the form of BTS, which AdaBins and others took over.

A line holds an image of the raw data, its depth map or ``None``, and the focal length, with one space between::

    2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png
        2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png 721.5377
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deapcache.errors import DataError, MissingDataError
from deapcache.locations import read_file

NO_DEPTH = "None"
"""Second field of images for which there is no ground truth."""

_IMAGE = (
    r"(?P<date>\d{4}_\d\d_\d\d)/(?P<drive>(?P=date)_drive_\d{4}_sync)/(?P<camera>image_0[23])/data/(?P<frame>\d+)\.png"
)
_DEPTH = r"(?P=drive)/proj_depth/groundtruth/(?P=camera)/(?P=frame)\.png"
_LINE = re.compile(rf"/?(?P<image>{_IMAGE})\s+/?(?P<depth>{_DEPTH}|{NO_DEPTH})(?:\s+[\d.]+)?")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of a list; files are named as in the list, relative to the raw data and to the depth maps."""

    id: str
    image: str
    depth: str | None
    drive: str


def read_list(path: Path) -> tuple[Listed, ...]:
    """All lines of a list, by ascending id, with and without depth.

    Raises :class:`MissingDataError` where there is no such file, and :class:`DataError` that names file and line where
    a line has another form, or an image is listed twice.
    """
    try:
        lines = read_file(path).decode().splitlines()
    except FileNotFoundError:
        raise MissingDataError(f"list {path} is missing; take it from the files of BTS or AdaBins") from None
    except UnicodeDecodeError as error:
        raise DataError(f"list {path} is no text ({error}); take it from the files of BTS or AdaBins") from None
    listed = [_parse(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]
    _refuse_repeats(listed, path)
    return tuple(sorted(listed, key=lambda entry: entry.id))


def _parse(line: str, where: str) -> Listed:
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise DataError(
            f"{where} reads {line.strip()[:200]!r}; expected DATE/DRIVE/image_02/data/FRAME.png, then the depth map of "
            f"the same drive, camera and frame, DRIVE/proj_depth/groundtruth/image_02/FRAME.png, or {NO_DEPTH}, then "
            "the focal length"
        )
    drive, camera, frame = match["drive"], match["camera"], match["frame"]
    depth = None if match["depth"] == NO_DEPTH else match["depth"]
    return Listed(id=f"{drive}/{camera}/{frame}", image=match["image"], depth=depth, drive=drive)


def _refuse_repeats(listed: Iterable[Listed], path: Path) -> None:
    seen: set[str] = set()
    for entry in listed:
        if entry.id in seen:
            raise DataError(f"list {path} names the image {entry.image} more than once; remove one of the lines")
        seen.add(entry.id)
