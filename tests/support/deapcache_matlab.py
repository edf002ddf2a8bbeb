"""NYUv2's two MATLAB files and GeoNet's two of its normals, with the header, axes and compression of MATLAB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from scipy.io import savemat

CLASSES = {"uint8": b"uint8", "uint16": b"uint16", "float32": b"single", "float64": b"double"}
KINDS = {"images": "uint8", "rawDepths": "float32", "depths": "float32", "labels": "uint16", "instances": "uint8"}


class MatlabFile:
    """A ``.mat`` of version 7.3 that is filled image by image: HDF5 behind 512 bytes with MATLAB's header."""

    def __init__(self, path: Path, count: int, size: tuple[int, int]) -> None:
        self._path = path
        self._file = h5py.File(path, "w", userblock_size=512)
        height, width = size
        for name, dtype in KINDS.items():
            item = (3, width, height) if name == "images" else (width, height)
            options = {"chunks": (1, *item), "compression": "gzip", "compression_opts": 3}
            array = self._file.create_dataset(name, (count, *item), dtype, **options)
            array.attrs["MATLAB_class"] = np.bytes_(CLASSES[dtype])

    def write(self, row: int, maps: Mapping[str, np.ndarray]) -> None:
        """``maps`` as one sees them, (height, width) or (height, width, 3); MATLAB's columns come first in the file."""
        for name, values in maps.items():
            self._file[name][row] = values.transpose()

    def close(self) -> None:
        self._file.close()
        text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon May  7 12:00:00 2012 HDF5 schema 1.00 ."
        with self._path.open("r+b") as file:
            file.write(text.ljust(116) + bytes(8) + b"\x00\x02IM")


def write_labelled(folder: Path, samples: Sequence[Mapping[str, np.ndarray]]) -> Path:
    """``nyu_depth_v2_labeled.mat`` in a folder, with these images; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nyu_depth_v2_labeled.mat"
    file = MatlabFile(path, len(samples), samples[0]["labels"].shape)
    for row, maps in enumerate(samples):
        file.write(row, maps)
    file.close()
    return path


def write_splits(folder: Path, train: Sequence[int], test: Sequence[int]) -> Path:
    """``splits.mat`` with these image numbers, from 1, as columns of doubles."""
    path = folder / "splits.mat"
    columns = {"trainNdxs": train, "testNdxs": test}
    savemat(path, {name: np.array(numbers, np.float64)[:, None] for name, numbers in columns.items()})
    return path


def random_sample(seed: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """One image with everything, of a size in multiples of 4: holes in its depth, three labels and 0, three numbers."""
    rng, coarse = np.random.default_rng(seed), (size[0] // 4, size[1] // 4)
    raw = rng.uniform(0.7, 9.9, size).astype(np.float32)
    raw[rng.random(size) < 0.2] = 0
    labels = np.kron(rng.integers(0, 4, coarse), np.ones((4, 4))) * 200
    return {
        "images": rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        "rawDepths": raw,
        "depths": rng.uniform(0.7, 9.9, size).astype(np.float32),
        "labels": labels.astype(np.uint16),
        "instances": np.kron(rng.integers(0, 3, coarse), np.ones((4, 4))).astype(np.uint8),
    }


def write_array(path: Path, name: str, values: np.ndarray) -> None:
    """One array as MATLAB's ``save -v7.3`` writes it: its last axis comes first in the file, its first one last."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset(name, data=values.transpose(), chunks=True, compression="gzip")


def random_normals(count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """GeoNet's ``norm_gt_l`` (h, w, 3, n) single, not quite of length 1, and ``masks`` (h, w, n), as in MATLAB."""
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(*size, 3, count))
    normals *= rng.uniform(0.99, 1.01, (*size, 1, count)) / np.linalg.norm(normals, axis=2, keepdims=True)
    return normals.astype(np.float32), (rng.random((*size, count)) < 0.8).astype(np.uint8)


def write_normals(folder: Path, count: int, size: tuple[int, int]) -> None:
    """``norm_gt_l.mat`` and ``masks.mat`` of :func:`random_normals` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in zip(("norm_gt_l", "masks"), random_normals(count, size), strict=True):
        write_array(folder / f"{name}.mat", name, values)
