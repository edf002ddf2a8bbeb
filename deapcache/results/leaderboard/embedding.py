"""Pictures of runs inside the page: drawn anew, small, and never a stranger's bytes as they are."""

from __future__ import annotations

import base64
import io
import warnings

from PIL import Image

from deapcache.errors import LocationError
from deapcache.locations import Location
from deapcache.results.record import picture_key

_WIDEST, _HIGHEST = 1000, 3000
_LARGEST_FILE = 30_000_000
_MOST_PIXELS = 40_000_000
_LARGEST = 250_000
"""Bytes of one picture in the page."""

BUDGET = 24_000_000
"""Bytes of all pictures in one page: what a phone opens."""


class Pictures:
    """Hands out pictures as data URIs until the page is full."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._left = budget

    def embed(self, home: Location, run: str) -> tuple[str, str]:
        """(data URI, "") of a run's picture, ("", why not) where it is not in the page; both empty: it has none."""
        key = picture_key(run)
        if not home.exists(key):
            return "", ""
        try:
            data = home.read(key)
            if len(data) > _LARGEST_FILE:
                return "", f"the picture {key} is larger than {_LARGEST_FILE // 1_000_000} MB"
            small = _shrunk(data)
        except (OSError, ValueError, SyntaxError, LocationError, Image.DecompressionBombError, Warning) as error:
            return "", f"the picture {key} cannot be shown: {error}"
        if len(small) > min(self._left, _LARGEST):
            return "", f"the picture {key} is left out to keep this page small"
        self._left -= len(small)
        return "data:image/webp;base64," + base64.b64encode(small).decode(), ""


def _shrunk(data: bytes) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise ValueError(f"{picture.width} × {picture.height} pixels are too many")
            shown = picture.convert("RGB")
    shown.thumbnail((_WIDEST, _HIGHEST))
    for quality in (78, 55, 30):
        packed = io.BytesIO()
        shown.save(packed, "WEBP", quality=quality)
        if packed.tell() <= _LARGEST:
            break
    return packed.getvalue()
