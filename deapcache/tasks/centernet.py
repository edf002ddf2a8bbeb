"""CenterNet's heat maps: an object is a bump around its box's centre (Zhou et al., 2019, "Objects as Points").

Boxes are (..., 4): x, y, width, height of the upper left corner and the sides, as fractions of the image. A heat map's
pixel in column i covers the fractions from i / w to (i + 1) / w. No class is told from another.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_OVERLAP = 0.7
"""IoU that two boxes keep whose corners are moved by the bump's radius."""

FLOOR = 1e-4
"""Probabilities are kept this far from 0 and 1 in the loss."""


def gaussian_radius(width: Tensor, height: Tensor, overlap: float = MIN_OVERLAP) -> Tensor:
    """How far both corners of a box may move, along both axes, with an IoU of at least ``overlap`` with where it was.

    The smallest of three cases, each the smaller positive root of a r² + b r + c = 0, with m = ``overlap``:

    * both corners move alike: s / (2wh - s) = m with s = (w - r)(h - r), so a = 1, b = -(w + h), c = wh(1 - m)/(1 + m)
    * both move inwards: (w - 2r)(h - 2r) / wh = m, so a = 4, b = -2(w + h), c = wh(1 - m)
    * both move outwards: wh / ((w + 2r)(h + 2r)) = m, so a = 4m, b = 2m(w + h), c = -wh(1 - m)

    CenterNet's published code takes the larger root of the first two and divides every root by 2 instead of 2a, which
    gives bumps three to four times as wide (CornerNet, where it comes from, was corrected later). These are the right
    roots. Any shape, in any unit of length.
    """
    total, area = width + height, width * height
    cases = (
        (1.0, -total, area * (1 - overlap) / (1 + overlap), -1),
        (4.0, -2 * total, area * (1 - overlap), -1),
        (4.0 * overlap, 2 * overlap * total, area * (overlap - 1), 1),
    )
    roots = [(-b + sign * (b.square() - 4 * a * c).clamp(min=0).sqrt()) / (2 * a) for a, b, c, sign in cases]
    return torch.stack(roots).amin(0)


def centre_cells(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 2) int64: column and row of the pixel with each box's centre, in a map of ``size`` (height, width)."""
    sides = boxes.new_tensor((size[1], size[0]))
    cells = ((boxes[..., :2] + boxes[..., 2:4] / 2) * sides).floor().long()
    return cells.clamp(min=0).minimum(sides.long() - 1)


def heat_maps(boxes: Tensor, objects: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w) float32 in [0, 1]: a bump for each box, the highest where several meet, 1 at the centres' pixels alone.

    A bump is exp(-d² / 2σ²) within whole pixels of the radius r = ⌊``gaussian_radius``⌋ along both axes, with
    σ = (2r + 1) / 6, and 0 beyond.

    Parameters
    ----------
    boxes
        (B, n, 4), inside the image.
    objects
        (B, n) bool: which of them are to be drawn.
    size
        Height and width of the map.
    """
    height, width = size
    image, place = objects.nonzero(as_tuple=True)
    chosen = boxes[image, place]
    radius = gaussian_radius(chosen[:, 2] * width, chosen[:, 3] * height).floor()
    # No box is larger than the image, and no window larger than the largest bump: one shape for all of them.
    largest = int(gaussian_radius(*torch.tensor((width, height), dtype=torch.float64)))
    offsets = torch.arange(-largest, largest + 1, device=boxes.device)
    within = offsets.abs() <= radius[:, None]
    profile = torch.exp(-offsets.square() * 18 / (2 * radius[:, None] + 1).square()).where(within, 0)
    columns, rows = (centre_cells(chosen, size)[:, axis, None] + offsets for axis in (0, 1))
    across = profile.where((columns >= 0) & (columns < width), 0)
    down = profile.where((rows >= 0) & (rows < height), 0)
    places = (image[:, None] * height + rows.clamp(0, height - 1))[:, :, None] * width
    places = places + columns.clamp(0, width - 1)[:, None, :]
    heat = torch.zeros(len(boxes) * height * width, device=boxes.device)
    values = (down[:, :, None] * across[:, None, :]).float()
    return heat.scatter_reduce_(0, places.flatten(), values.flatten(), "amax").view(-1, height, width)


def focal_loss(logit: Tensor, heat: Tensor, counted: Tensor) -> Tensor:
    """CenterNet's penalty-reduced focal loss (α = 2, β = 4): summed over pixels, divided by the number of centres.

    -(1 - p)² ln p where ``heat`` is 1, else -(1 - heat)⁴ p² ln(1 - p); p is the sigmoid, kept between 1e-4 and
    1 - 1e-4. All (B, h, w): logits, :func:`heat_maps`, and which pixels count (bool). Without any centre the sum is
    divided by 1.
    """
    p = logit.float().sigmoid().clamp(FLOOR, 1 - FLOOR)
    centre = heat == 1
    at_centre = (1 - p).square() * p.log()
    elsewhere = (1 - heat) ** 4 * p.square() * (1 - p).log()
    losses = -torch.where(centre, at_centre, elsewhere) * counted
    return losses.sum() / (centre & counted).sum().clamp(min=1)


def decode(output: Tensor, count: int, overlap: float) -> Tensor:
    """The boxes that an output stands for: (B, count, 5) float32 x, y, width, height and score, the best first.

    Centres are the ``count`` highest pixels that none of eight neighbours exceeds; a box stands around the middle of
    its pixel and has the size said there, but at least one pixel's. Then those go that have an IoU above ``overlap``
    with a better one. The score is the centre's probability; rows that are left over are 0.

    output: (B, 3, h, w): logit of a centre, width and height as fractions of the image.
    """
    height, width = output.shape[-2:]
    logit = output[:, 0].float()
    is_peak = logit == F.max_pool2d(logit[:, None], 3, stride=1, padding=1)[:, 0]
    peaks = logit.masked_fill(~is_peak, -math.inf).flatten(1)
    best, cells = peaks.topk(min(count, height * width))
    centres = torch.stack([(cells % width + 0.5) / width, (cells // width + 0.5) / height], dim=-1)
    smallest = output.new_tensor((1 / width, 1 / height), dtype=torch.float32)
    sizes = values_at(output[:, 1:3].float(), cells).maximum(smallest)
    found = torch.cat([centres - sizes / 2, sizes, best.sigmoid()[..., None]], dim=-1)
    return F.pad(torch.stack([_without_repeats(one, overlap) for one in found]), (0, 0, 0, count - found.shape[1]))


def values_at(maps: Tensor, cells: Tensor) -> Tensor:
    """(B, n, C): the values of (B, C, h, w) maps at (B, n) pixels, counted along the rows."""
    channels = maps.shape[1]
    return maps.flatten(2).gather(2, cells[:, None].expand(-1, channels, -1)).mT


def _without_repeats(found: Tensor, overlap: float) -> Tensor:
    """The (n, 5) boxes of one image that non-maximum suppression leaves, in order, then zeros."""
    from torchvision.ops import nms  # loads an image library, which other tasks do without

    corners = torch.cat([found[:, :2], found[:, :2] + found[:, 2:4]], dim=1)
    kept = found[nms(corners, found[:, 4], overlap)]
    kept = kept[kept[:, 4] > 0]
    return F.pad(kept, (0, 0, 0, len(found) - len(kept)))
