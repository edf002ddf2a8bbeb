"""Feature volumes as colours: their first three principal components, beside the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deapcache.results.figures.style import Canvas, image, image_grid
from deapcache.results.painters import principal_colours


def draw_features(
    images: np.ndarray, names: Sequence[str], volumes: Mapping[str, np.ndarray], *, source: str
) -> Canvas:
    """A row for each image: itself, and the features of each backbone in colours.

    ``images`` is (n, h, w, 3) uint8 RGB, what the features are of; ``volumes`` are (n, H, W, D) by backbone; ``source``
    says of which data. The components are those of all images shown, so that a colour means the same down a column;
    columns have nothing in common.
    """
    columns = [images, *(principal_colours([one])[0][0] for one in volumes.values())]
    heads = [f"{name}\n{' × '.join(map(str, one.shape[1:]))}" for name, one in volumes.items()]
    canvas = image_grid(
        [[image(pixels) for pixels in row] for row in zip(*columns, strict=True)],
        heads=["image", *heads],
        sides=names,
        aspects=[images.shape[1] / images.shape[2]] * len(images),
    )
    canvas.note(
        f"{source}; red, green and blue are the first three principal components of a backbone's features over the "
        "images shown, each stretched over its 1st to 99th percentile; under each name: height × width × features"
    )
    return canvas
