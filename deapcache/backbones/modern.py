"""A second group of backbones with names of their own: what laboratories use since the paper.

The rows have the form of the paper's table; sizes, widths and parameters are those of the built models.
"""

from __future__ import annotations

from typing import Any

from deapcache.backbones.paper import APACHE, IMAGENET, SUP, Row, add_table
from deapcache.backbones.registry import WeightsSource

# fmt: off
TABLE: tuple[Row, ...] = (
    ("sam2.1-t", "sam2_hiera_tiny", 1024, 64, 256, 27_219_136, IMAGENET, SUP, "", "SA-1B, SA-V", APACHE),
    ("sam2.1-s", "sam2_hiera_small", 1024, 64, 256, 34_316_992, IMAGENET, SUP, "", "SA-1B, SA-V", APACHE),
    ("sam2.1-b+", "sam2_hiera_base_plus", 1024, 64, 256, 69_106_816, IMAGENET, SUP, "", "SA-1B, SA-V", APACHE),
    ("sam2.1-l", "sam2_hiera_large", 1024, 64, 256, 212_703_280, IMAGENET, SUP, "", "SA-1B, SA-V", APACHE),
)
# fmt: on


def _sam2(size: str, parameters: int) -> dict[str, Any]:
    """The neck of SAM 2.1's image encoder; the file holds all of SAM 2.1, of so many parameters."""
    return {
        "final_norm": False,
        "layer": "neck, stride 16",
        "loader": "deapcache.backbones.special:load_sam2",
        "source": WeightsSource(
            repo=f"facebook/sam2.1-hiera-{size}", files=(f"sam2.1_hiera_{size.replace('-', '_')}.pt",)
        ),
        "checkpoint_bytes": 4 * parameters,
    }


OTHER_FACTS: dict[str, dict[str, Any]] = {
    "sam2.1-t": _sam2("tiny", 39_000_000),
    "sam2.1-s": _sam2("small", 46_000_000),
    "sam2.1-b+": _sam2("base-plus", 80_900_000),
    "sam2.1-l": _sam2("large", 224_400_000),
}
"""What differs from a model of timm with its final norm and the weights of timm's own repository."""

add_table(TABLE, OTHER_FACTS, group="modern")
