"""MATLAB files of version 7.3: HDF5 behind a header, arrays with their axes reversed.

MATLAB counts the axes of an array from the fastest one, HDF5 from the slowest, so that an array of height × width × N
has the shape (N, width, height) here. There is no specification: header and attributes are those that MATLAB writes, as
the documentation of the hdf5storage package describes them ("Storage Format").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

USERBLOCK = 512
"""Bytes before the HDF5 part; the header takes the first 128."""

_CLASSES = {"uint8": "uint8", "uint16": "uint16", "float32": "single"}
"""MATLAB's name of a number type."""

_REFERENCES = "#refs#"
"""Group that holds the members of cell arrays."""


def create(path: Path) -> Any:
    """An empty, open ``h5py.File`` with room for the header; :func:`write_header` makes a MATLAB file of it."""
    import h5py

    return h5py.File(path, "w", userblock_size=USERBLOCK)


def write_header(path: Path) -> None:
    """Mark a closed file as MATLAB 7.3: text, no subsystem data, version, byte order."""
    text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, written by the tests of deapcache, HDF5 schema 1.00 ."
    with path.open("r+b") as file:
        file.write(text.ljust(116) + bytes(8) + (0x0200).to_bytes(2, "little") + b"IM")


def create_stack(file: Any, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """A dataset for one array per image, (N, ...), compressed image by image."""
    kind = np.dtype(dtype)
    made = file.create_dataset(
        name, shape, kind, chunks=(1, *shape[1:]), compression="gzip", compression_opts=3, shuffle=kind.itemsize > 1
    )
    made.attrs["MATLAB_class"] = np.bytes_(_CLASSES[kind.name])
    return made


def write_cell(file: Any, name: str, texts: Sequence[str]) -> None:
    """A cell array of n × 1 texts: references, (1, n) here, to arrays of UTF-16 characters."""
    import h5py

    group = file.require_group(_REFERENCES)
    cell = file.create_dataset(name, (1, len(texts)), h5py.ref_dtype)
    cell.attrs["MATLAB_class"] = np.bytes_("cell")
    for index, text in enumerate(texts):
        letters = np.frombuffer(text.encode("utf-16-le"), np.uint16)[:, None]
        member = group.create_dataset(f"{name}-{index}", data=letters)
        member.attrs["MATLAB_class"] = np.bytes_("char")
        member.attrs["MATLAB_int_decode"] = np.int32(2)
        cell[0, index] = member.ref
