"""Storage formats against plain formulas, and the errors for what cannot be stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from deapcache.cache import STORAGE_FORMATS, decode_features, encode_features, feature_arrays
from deapcache.errors import FeatureError, UsageError

SHAPE = (2, 2, 3, 4)
IDS = ["first", "second"]


def _arrays(limit: float) -> st.SearchStrategy[np.ndarray]:
    return npst.arrays(np.float32, SHAPE, elements=st.floats(-limit, limit, width=32))


def _through(features: np.ndarray, storage: str) -> np.ndarray:
    return decode_features(encode_features(features, storage, IDS), storage)


@given(_arrays(65504.0))
@settings(deadline=None)
def test_float16_is_numpys(features: np.ndarray) -> None:
    found = _through(features, "float16")
    np.testing.assert_array_equal(found, features.astype(np.float16))
    assert found.dtype == np.float16


@given(_arrays(65280.0))
@settings(deadline=None)
def test_bfloat16_rounds_to_the_nearest_of_eight_significant_bits(features: np.ndarray) -> None:
    found = _through(features, "bfloat16").astype(np.float64)
    exact = features.astype(np.float64)
    mantissa, exponent = np.frexp(exact)
    # np.rint rounds ties to even; 8 significant bits, of which the first is implied
    reference = np.ldexp(np.rint(np.ldexp(mantissa, 8)), exponent - 8)
    normal = np.abs(exact) >= 2.0**-14
    np.testing.assert_array_equal(found[normal], reference[normal])
    np.testing.assert_allclose(found, exact, rtol=2.0**-8, atol=2.0**-24)


def test_bfloat16_leaves_three_bits_free() -> None:
    features = np.random.default_rng(0).normal(size=SHAPE).astype(np.float16)
    stored = encode_features(features, "bfloat16", IDS)["features"]
    assert stored.dtype == np.float16
    assert not (stored.view(np.uint16) & 0b111).any()


def test_bfloat16_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    features = np.random.default_rng(0).normal(size=(4, 8, 8, 64)).astype(np.float32)
    expected = torch.from_numpy(features).to(torch.bfloat16).to(torch.float32).numpy()
    found = _through_many(features, "bfloat16").astype(np.float32)
    np.testing.assert_array_equal(found, expected)


def _through_many(features: np.ndarray, storage: str) -> np.ndarray:
    return decode_features(encode_features(features, storage, [str(i) for i in range(len(features))]), storage)


@given(_arrays(2.0**127))
@settings(deadline=None)
def test_float32_is_exact(features: np.ndarray) -> None:
    np.testing.assert_array_equal(_through(features, "float32"), features)


@given(_arrays(2.0**127))
@settings(deadline=None)
def test_int8_errs_by_half_a_level_of_the_tokens_largest_value(features: np.ndarray) -> None:
    stored = encode_features(features, "int8", IDS)
    assert {name: (a.shape, a.dtype.name) for name, a in stored.items()} == {
        "scales": (SHAPE[:-1], "float32"),
        "features": (SHAPE, "int8"),
    }
    found = decode_features(stored, "int8").astype(np.float64)
    largest = np.abs(features).max(axis=-1, keepdims=True).astype(np.float64)
    assert (np.abs(found - features) <= largest / 254 * (1 + 1e-5) + 1e-42).all()
    assert (stored["features"] >= -127).all()


def test_half_precision_input_is_taken_as_it_is() -> None:
    features = np.random.default_rng(0).normal(size=SHAPE).astype(np.float16)
    for storage in ("float16", "float32"):
        np.testing.assert_array_equal(_through(features, storage), features)
    assert _through(features, "float32").dtype == np.float32
    assert _through(features, "int8").dtype == np.float32


@pytest.mark.parametrize("storage", STORAGE_FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_everywhere(storage: str, value: float) -> None:
    features = np.zeros(SHAPE, np.float32)
    features[1, 0, 2, 3] = value
    message = rf"image 'second': channel 3 at grid cell \(row 0, column 2\) is {value:g}.*check the weights"
    with pytest.raises(FeatureError, match=message):
        encode_features(features, storage, IDS)


@pytest.mark.parametrize(("storage", "value"), [("float16", 65520.0), ("float16", -1e9), ("bfloat16", 65504.0)])
def test_what_is_out_of_range_is_refused(storage: str, value: float) -> None:
    features = np.zeros(SHAPE, np.float32)
    features[0, 1, 1, 2] = value
    with pytest.raises(FeatureError, match=r"image 'first': channel 2 at .*row 1, column 1.*--dtype float32") as raised:
        encode_features(features, storage, IDS)
    assert f"{value:g}" in str(raised.value)
    for wider in ("float32", "int8"):
        np.testing.assert_allclose(_through(features, wider), features)


def test_the_largest_numbers_of_each_format_are_kept() -> None:
    for storage, value in (("float16", 65519.0), ("bfloat16", 65407.0)):
        assert np.isfinite(_through(np.full(SHAPE, value, np.float32), storage)).all()


def test_the_arrays_of_each_format() -> None:
    plain = [a for s in STORAGE_FORMATS for a in feature_arrays(s, (3, 4), 8, compress=False) if a.name == "features"]
    assert {a.compression for a in plain} == {"none"}
    named = {s: [(a.name, a.dtype, a.item_shape) for a in feature_arrays(s, (3, 4), 8)] for s in STORAGE_FORMATS}
    whole = (3, 4, 8)
    assert named == {
        "float16": [("features", "float16", whole)],
        "bfloat16": [("features", "float16", whole)],
        "float32": [("features", "float32", whole)],
        "int8": [("scales", "float32", (3, 4)), ("features", "int8", whole)],
    }
    with pytest.raises(UsageError, match="choose one of float16, bfloat16, float32, int8"):
        feature_arrays("float8", (3, 4), 8)
