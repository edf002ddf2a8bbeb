"""Storage formats of features: what becomes of a number on its way to disk and back.

========== ============================================== ============================
format     stored as                                      error
========== ============================================== ============================
float16    float16                                        relative 2^-11 (above 6e-5)
bfloat16   float16 whose mantissa is rounded to 7 bits    relative 2^-8 (above 6e-5)
float32    float32                                        none
int8       int8 and one float32 scale a token             absmax of the token / 254
========== ============================================== ============================

True bfloat16 is avoided because zarr-python does not read it; seven mantissa bits are all it has, and a float16
container that keeps no more compresses as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numcodecs import BitRound

from deapcache.cache.format import DEFAULT_COMPRESSION, ROUNDED_COMPRESSION, UNCOMPRESSED, ArraySpec
from deapcache.errors import FeatureError, require_choice

STORAGE_FORMATS = ("float16", "bfloat16", "float32", "int8")

_FLOAT16_MAX = 65504.0
_INT8_MAX = 127.0
_ROUND = BitRound(keepbits=7)


CLS = "cls"
"""The array of class tokens (N, D), where they are kept beside feature volumes."""


def feature_arrays(
    storage: str, grid: tuple[int, int], dim: int, *, compress: bool = True, cls: bool = False
) -> tuple[ArraySpec, ...]:
    """The arrays that keep (H, W, D) feature volumes in a storage format, the committing one last.

    Compressed or not, they hold the same numbers, and stand for the same recipe. With ``cls`` there is an array of
    class tokens (D,) before them: float16 for 16-bit storage, else float32. Raises :class:`UsageError` for an unknown
    format.
    """
    require_choice("storage format", storage, STORAGE_FORMATS)
    height, width = grid
    shape, dimensions = (height, width, dim), ("row", "column", "channel")
    token = ArraySpec(name=CLS, dtype=_cls_dtype(storage), item_shape=(dim,), dimensions=("channel",))
    before = (token,) if cls else ()
    dtype = {"float32": "float32", "int8": "int8"}.get(storage, "float16")
    compression = ROUNDED_COMPRESSION if storage == "bfloat16" else DEFAULT_COMPRESSION[dtype]
    features = ArraySpec(
        name="features",
        dtype=dtype,
        item_shape=shape,
        dimensions=dimensions,
        compression=compression if compress else UNCOMPRESSED,
    )
    if storage == "int8":
        scales = ArraySpec(name="scales", dtype="float32", item_shape=grid, dimensions=("row", "column"))
        return *before, scales, features
    return *before, features


def encode_features(features: np.ndarray, storage: str, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Feature volumes as they are stored, one array per name of :func:`feature_arrays`.

    Parameters
    ----------
    features
        (n, H, W, D) float32 or float16.
    storage
        One of ``STORAGE_FORMATS``.
    image_ids
        Ids of the n images, for messages.

    Raises
    ------
    FeatureError
        For NaN, an infinity or a value beyond the format's range; names image, channel, grid cell and value.
    """
    require_choice("storage format", storage, STORAGE_FORMATS)
    _require_finite(features, features, image_ids, storage)
    if storage == "int8":
        return _quantise(features.astype(np.float32, copy=False))
    if storage == "float32":
        return {"features": features.astype(np.float32, copy=False)}
    rounded = features
    if storage == "bfloat16":  # to a mantissa of 7 bits, to nearest, ties to even
        encoded = _ROUND.encode(features.astype(np.float32))
        rounded = np.asarray(encoded).view(np.float32).reshape(features.shape)
    with np.errstate(over="ignore"):
        stored = rounded.astype(np.float16, copy=False)
    if stored is not features:
        _require_finite(features, stored, image_ids, storage)
    return {"features": stored}


def encode_cls(tokens: np.ndarray, storage: str, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Class tokens (n, D) float32 or float16 as they are stored beside feature volumes.

    Raises :class:`FeatureError` for a number that cannot be stored; names image and channel.
    """
    with np.errstate(over="ignore"):
        stored = tokens.astype(_cls_dtype(storage), copy=False)
    finite = np.isfinite(stored)
    if not finite.all():
        image, channel = (int(place) for place in np.unravel_index(int(np.argmin(finite)), finite.shape))
        raise FeatureError(
            f"image {image_ids[image]!r}: channel {channel} of the class token is {tokens[image, channel]:g}, which is "
            f"no number that {stored.dtype} can store: check the weights, or extract with --dtype float32"
        )
    return {CLS: stored}


def _cls_dtype(storage: str) -> str:
    return "float16" if storage in ("float16", "bfloat16") else "float32"


def decode_features(arrays: Mapping[str, np.ndarray], storage: str) -> np.ndarray:
    """Feature volumes (n, H, W, D) from stored arrays: float16 for ``float16`` and ``bfloat16``, else float32."""
    require_choice("storage format", storage, STORAGE_FORMATS)
    if storage == "int8":
        return arrays["features"] * arrays["scales"][..., None]
    return arrays["features"]


def _quantise(features: np.ndarray) -> dict[str, np.ndarray]:
    scales = np.abs(features).max(axis=-1) / np.float32(_INT8_MAX)
    divisors = np.where(scales > 0, scales, np.float32(1))[..., None]
    # The smallest scales are rounded so coarsely that a quotient can exceed 127.
    levels = np.clip(np.rint(features / divisors), -_INT8_MAX, _INT8_MAX)
    return {"scales": scales, "features": levels.astype(np.int8)}


def _require_finite(features: np.ndarray, stored: np.ndarray, image_ids: Sequence[str], storage: str) -> None:
    if are_finite(stored, stored.dtype):
        return
    finite = np.isfinite(stored)
    image, row, column, channel = (int(i) for i in np.unravel_index(int(np.argmin(finite)), finite.shape))
    value = float(features[image, row, column, channel])
    if np.isfinite(value):
        problem = f"is beyond the range of {storage} storage (±{_FLOAT16_MAX:g}): extract with --dtype float32"
    else:
        problem = (
            "is no number that can be stored: check the weights, and extract with --precision fp32 "
            "where a narrower precision was used"
        )
    raise FeatureError(
        f"image {image_ids[image]!r}: channel {channel} at grid cell (row {row}, column {column}) is {value:g}, "
        f"which {problem}"
    )


_EXPONENTS = {2: 0x7C00, 4: 0x7F800000, 8: 0x7FF0000000000000}
"""Bytes of a float → its exponent's bits; all set in infinities and NaN, and only there."""


def are_finite(data: np.ndarray, dtype: np.dtype, *, overwrite: bool = False) -> bool:
    """Whether ``data``, numbers of ``dtype`` or their bytes, hold no infinity and no NaN.

    With ``overwrite`` they are lost, and no memory is taken.
    """
    if dtype.kind != "f" or not data.size:
        return True
    bits = data.view(f"<u{dtype.itemsize}")
    exponent = bits.dtype.type(_EXPONENTS[dtype.itemsize])
    return bool(np.bitwise_and(bits, exponent, out=bits if overwrite else None).max() != exponent)
