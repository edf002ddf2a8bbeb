"""Whether a weight file is whole, told from its structure: needs no torch, reads no tensor and runs nothing."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

_MAX_HEADER = 100_000_000
"""Bytes of a safetensors header; the library refuses more."""

_ITEM_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8,
}  # fmt: skip
"""Of torch's storage classes."""


def is_safetensors(path: Path) -> bool:
    """Whether the content is safetensors, whatever the ending of the name. Raises :class:`OSError`."""
    with path.open("rb") as file:
        return _is_safetensors(file.read(9))


def find_damage(path: Path) -> str:
    """What is wrong with a checkpoint, as the rest of a sentence about it; empty where it is whole.

    Found are files that were cut short, are empty, or hold something else: an error page, a Git LFS pointer, a zip
    archive without a checkpoint. Bytes of tensors are not looked at.
    """
    try:
        with path.open("rb") as file:
            return _damage(file, path.stat().st_size)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _damage(file: BinaryIO, size: int) -> str:
    start = file.read(512)
    file.seek(0)
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file that it stands for"
    if _is_safetensors(start):
        return _damage_of_safetensors(file, size)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"<", b"{"):
        return "holds a web page or a message of a server in place of weights"
    if start.startswith(b"PK"):
        return _damage_of_zip(file)
    if start.startswith(b"\x80"):
        return _damage_of_legacy(file, size)
    return "is no checkpoint, neither of safetensors nor of torch"


def _is_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= _MAX_HEADER


def _cut(size: int, expected: int) -> str:
    return f"is cut short: it has {size:,} of {expected:,} bytes"


def _damage_of_safetensors(file: BinaryIO, size: int) -> str:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 + length:
        return _cut(size, 8 + length).replace(" of ", " of at least ")
    try:
        header = json.loads(file.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return "has a damaged safetensors header"
    if size > expected:
        return f"has {size - expected:,} bytes more than its safetensors header says"
    return _cut(size, expected) if size < expected else ""


def _damage_of_zip(file: BinaryIO) -> str:
    try:
        names = zipfile.ZipFile(file).namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "is cut short: the directory at its end is missing"
    is_checkpoint = any(name.rpartition("/")[2] == "data.pkl" for name in names)
    return "" if is_checkpoint else "is a zip archive without a checkpoint of torch"


def _damage_of_legacy(file: BinaryIO, size: int) -> str:
    """Of torch's format before 1.6: five pickles, then each storage as its length, 8 bytes, and its numbers."""
    sizes: dict[Any, int] = {}
    try:
        for _ in range(4):  # magic number, protocol, facts about the system, and the object
            _Skimming(file, sizes).load()
        keys = _Skimming(file, sizes).load()
        expected = file.tell() + sum(8 + sizes[key] for key in keys)
    except EOFError:
        return f"is cut short, after {size:,} bytes"
    except Exception as error:  # whatever a pickle may hold; torch says what it makes of it
        return f"is cut short, after {size:,} bytes" if "truncated" in str(error) else ""
    return _cut(size, expected) if size < expected else ""


class _Anything:
    """Stands for whatever a pickle names, so that nothing of it is imported or run."""

    def __new__(cls, *_: object, **__: object) -> _Anything:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass

    def append(self, _: object) -> None:
        """As a list does."""

    def extend(self, _: object) -> None:
        """As a list does."""


class _Skimming(pickle.Unpickler):
    """Reads a pickle for the storages that it mentions: key → bytes."""

    def __init__(self, file: BinaryIO, sizes: dict[Any, int]) -> None:
        super().__init__(file)
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Anything,), {})

    def persistent_load(self, identifier: Any) -> Any:
        kind, storage, key, _, count, *_ = identifier
        if kind == "storage":
            self._sizes[key] = count * _ITEM_BYTES[storage.__name__]
        return None
