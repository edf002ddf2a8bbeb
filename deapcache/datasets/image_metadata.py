"""Picture files without their metadata, which decides nothing about the pixels but for one EXIF tag.

What Pillow makes of texts, profiles and EXIF differs between its versions, and a damaged one can make it refuse sound
pixels. It is given the stored picture alone; the orientation is read here.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

_JPEG, _PNG, _TIFF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_ORIENTATION = 0x0112
_WHOLE_NUMBERS = {3: "H", 4: "I", 8: "h", 9: "i"}
"""TIFF's types of whole numbers of 16 and 32 bits, for ``struct``."""

_MOST_EXIF = 1 << 20
"""Bytes of an EXIF block that are looked at; its first directory lies at the beginning."""

_RAW_PROFILE = b"Raw profile type exif\0"
"""How PNGs hold EXIF that were written before there was a chunk for it."""


Picture = tuple[BinaryIO, bytes]
"""A picture file as Pillow is to see it, and the EXIF block that was taken out of it or lies in it."""


def without_metadata(file: BinaryIO, *, header_only: bool = False) -> Picture:
    """The picture in an open file; ``header_only``: at least as much of it as tells mode and size.

    PNG: without ancillary chunks other than tRNS, so that an animation shows its still image. JPEG: without comments
    and the application segments that say nothing about colours. TIFF: with an orientation of 1. Others: as they are.
    """
    start = file.read(8)
    file.seek(0)
    if start == _PNG:
        return _png(file, header_only)
    if start.startswith(_JPEG):
        return _jpeg(file, header_only)
    if start.startswith(_TIFF):
        data = file.read()
        upright = bytearray(data)  # Pillow turns a TIFF by itself, unless its orientation is 1
        for order, place, count in _orientation_entries(data):
            struct.pack_into(f"{order}HH{count}HH", upright, place, _ORIENTATION, 3, 1, 1, 0)
        return io.BytesIO(upright), data
    return file, b""


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where the block has none or is damaged before it.

    That is the tag 274 of the first directory, one whole number of 16 or 32 bits. XMP's copy of it is no EXIF.
    """
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    found = 1
    for order, place, count_format in _orientation_entries(exif):
        kind, count = struct.unpack_from(f"{order}H{count_format}", exif, place + 2)
        if count == 1 and kind in _WHOLE_NUMBERS:
            offset = place + 4 + struct.calcsize(f"={count_format}")
            (found,) = struct.unpack_from(order + _WHOLE_NUMBERS[kind], exif, offset)
    return found if 1 <= found <= 8 else 1


def _orientation_entries(data: bytes) -> Iterator[tuple[str, int, str]]:
    """Byte order, offset and format of the count, of all entries of the tag in the first directory of a TIFF."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return
    is_big = b"+" in data[2:4]
    place, number, size, count = (8, "Q", 20, "Q") if is_big else (4, "I", 12, "I")
    (start,) = struct.unpack_from(order + number, data, place)
    width = 8 if is_big else 2
    if start + width > len(data):
        return
    (entries,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, start)
    first = start + width
    for k in range(min(entries, (len(data) - first) // size)):
        if struct.unpack_from(f"{order}H", data, first + k * size) == (_ORIENTATION,):
            yield order, first + k * size, count


def _png(file: BinaryIO, header_only: bool) -> Picture:
    kept = [file.read(len(_PNG))]
    exif = profile = b""
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name.isalpha() and name[:1].islower() and name != b"tRNS":
            end = file.tell() + length + 4
            if name == b"eXIf":
                exif = file.read(min(length, _MOST_EXIF))
            elif name in (b"tEXt", b"zTXt"):
                profile = profile or _raw_profile(name, file.read(min(length, 2 * _MOST_EXIF)))
            file.seek(end)
            continue
        kept += [head] if header_only and name == b"IDAT" else [head, file.read(length + 4)]
        if name == b"IEND" or (header_only and name == b"IDAT"):
            break
    else:
        kept.append(head)
    return io.BytesIO(b"".join(kept)), exif or profile


def _raw_profile(name: bytes, text: bytes) -> bytes:
    if not text.startswith(_RAW_PROFILE):
        return b""
    text = text[len(_RAW_PROFILE) :]
    try:
        if name == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], 2 * _MOST_EXIF)
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (ValueError, zlib.error):
        return b""


def _jpeg(file: BinaryIO, header_only: bool) -> Picture:
    kept = [file.read(2)]
    exif = b""
    while True:
        marker = file.read(2)
        if marker == b"\xff\xff":  # filling
            file.seek(-1, io.SEEK_CUR)
            continue
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] < 0xC0 or 0xD0 <= marker[1] <= 0xDA:
            break  # the pixels, or nothing that has a length
        size = file.read(2)
        length = int.from_bytes(size, "big")
        if length < 2:
            marker += size
            break
        # APP0 and APP14 say how colours are stored
        if marker[1] == 0xFE or (0xE1 <= marker[1] <= 0xEF and marker[1] != 0xEE):
            if marker[1] == 0xE1 and not exif:
                exif = file.read(length - 2)
                exif = exif if exif.startswith(b"Exif\0\0") else b""
            else:
                file.seek(length - 2, io.SEEK_CUR)
        else:
            kept.append(marker + size + file.read(length - 2))
    is_scan = marker == b"\xff\xda"
    kept += [marker, file.read(64 if header_only and is_scan else -1)]
    return io.BytesIO(b"".join(kept)), exif
