"""Arrays of a HDF5 file, of which MATLAB's ``.mat`` of version 7.3 is one, read an item at a time."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deapcache.errors import DataError, MissingDataError
from deapcache.locations import require_reached

_READING = threading.Lock()  # of the module, so that a file can be pickled; h5py itself reads one item at a time


class ArrayFile:
    """Arrays by name in a HDF5 file, whose first axis counts items.

    The file is opened when something is first read, by each process on its own, and again when it has changed. Only the
    chunks of one item are read at a time. An object that is pickled leaves its open file behind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: h5py.File | None = None
        self._opened: tuple[int, ...] = ()
        """Process, inode, size and modification time that the open file belongs to."""

    def describe(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of an array; raises :class:`MissingDataError`, and :class:`DataError` if it is not there."""
        with _READING:
            array = self._array(name)
            return array.shape, array.dtype

    def item(self, name: str, number: int) -> NDArray[Any]:
        """Item ``number``, from 0, of an array, as it is stored.

        Raises :class:`MissingDataError`, and :class:`DataError` where the file cannot be read.
        """
        with _READING:
            array = self._array(name)
            try:
                return np.asarray(array[number])
            except (OSError, RuntimeError, ValueError, IndexError) as error:
                require_reached(error, self.path)
                raise DataError(
                    f"{self.path}: item {number} of {name} cannot be read ({error}); download the file again"
                ) from error

    def close(self) -> None:
        """Close the file, if it is open; what is read next opens it again."""
        with _READING:
            self._close()

    def _array(self, name: str) -> h5py.Dataset:
        file = self._open()
        array = file.get(name)
        if not isinstance(array, h5py.Dataset):
            raise DataError(f"{self.path} has no array {name!r}; found {', '.join(sorted(file)) or 'nothing'}")
        return array

    def _open(self) -> h5py.File:
        facts = _facts(self.path)
        if self._file is None or facts != self._opened:
            self._close()
            self._file, self._opened = _open(self.path), facts
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def _facts(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise MissingDataError(f"{path} is missing; put it back, or give another --data-root") from None
    return os.getpid(), status.st_ino, status.st_size, status.st_mtime_ns


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        require_reached(error, path)
        raise DataError(
            f"{path} cannot be opened as HDF5 ({error}); expected MATLAB's version 7.3 format. The download is "
            "probably cut short, or is a web page: download it again"
        ) from error
