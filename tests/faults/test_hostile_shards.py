"""Shards whose checksums are right and whose contents lie: each is an error that names shard and image."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from crc32c import crc32c
from deapcache_caches import shard_file
from deapcache_faults import Tally
from deapcache_hostile import require_refused

from deapcache.cache import FeatureCache


def _rewritten(cache: FeatureCache, change: Callable[[bytearray, np.ndarray], None]) -> None:
    """Shard 0 after ``change`` of its bytes and index, with checksums that are right again."""
    path = shard_file(cache, 0)
    raw = bytearray(path.read_bytes())
    tail = 16 * 3 + 4
    data, index = raw[:-tail], np.frombuffer(bytes(raw[-tail:-4]), "<u8").reshape(-1, 2).copy()
    change(data, index)
    packed = index.tobytes()
    path.write_bytes(bytes(data) + packed + struct.pack("<I", crc32c(packed)))


@pytest.mark.parametrize(
    "entry",
    [
        (0, 2**40),
        (2**40, 100),
        (2**63, 100),
        (0, 2**63),
        (2**64 - 2, 2),
        (0, 0),
        (0, 3),
        (0, 5),
        (2**64 - 1, 2**64 - 1),
    ],
)
def test_a_shard_index_that_points_elsewhere(
    cache: FeatureCache, tmp_path: Path, tally: Tally, entry: tuple[int, int]
) -> None:
    _rewritten(cache, lambda data, index: index.__setitem__(0, entry))
    with tally.fault("a shard index that points elsewhere", "CorruptCacheError: which shard and image"):
        require_refused(cache, tmp_path, r"c\.0\.0\.0\.0: damaged, image '000000' \(row 0\)")


@pytest.mark.parametrize("claimed", [2**31 - 100, 2**32 - 1, 0, 1, 191, 193])
def test_a_chunk_that_unpacks_to_another_size(cache: FeatureCache, tmp_path: Path, tally: Tally, claimed: int) -> None:
    def change(data: bytearray, index: np.ndarray) -> None:
        offset, length = (int(number) for number in index[0])
        data[offset + 4 : offset + 8] = struct.pack("<I", claimed)
        data[offset + length - 4 : offset + length] = struct.pack(
            "<I", crc32c(bytes(data[offset : offset + length - 4]))
        )

    _rewritten(cache, change)
    with tally.fault("a chunk that claims another size", "CorruptCacheError: which shard and image"):
        require_refused(cache, tmp_path, r"c\.0\.0\.0\.0: damaged, image '000000' \(row 0\)")
