"""The benchmarks run, and their readers agree; nothing is timed here."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

READ = Path(__file__).with_name("bench_read.py")


def test_all_readers_return_the_same_volumes() -> None:
    rows = runpy.run_path(str(READ))["run"](quick=True)
    assert rows[0].name == "deapcache"
    assert len(rows) == 4
    for row in rows:
        np.testing.assert_array_equal(row.last_batch, rows[0].last_batch)
        assert row.last_batch.dtype == np.float16
        assert len(row.speeds) == 1
