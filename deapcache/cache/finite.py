"""Whether numbers are finite, by the bits of little-endian floats: numpy takes float16 number by number."""

from __future__ import annotations

import numpy as np

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
