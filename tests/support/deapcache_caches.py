"""Small caches for tests: recipes, creating, filling, damaging and serving them."""

from __future__ import annotations

import http.server
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from deapcache_servers import in_a_thread

from deapcache.cache import (
    Cache,
    FeatureCache,
    create_cache,
    encode_features,
    feature_arrays,
    features_path,
    refresh_manifest,
)
from deapcache.locations import LocalLocation, Location
from deapcache.recipe import FeatureRecipe

GRID = (3, 4)
DIM = 8
IMAGES = 130
"""With at least 64 shards wanted: 43 shards of three images and an edge shard of one."""


def feature_recipe(**changes: Any) -> FeatureRecipe:
    """A feature recipe, with some fields changed."""
    fields: dict[str, Any] = {
        "backbone": "vit-b-16",
        "architecture": "timm:vit_base_patch16_224",
        "arguments": {"img_size": [224, 224]},
        "weights": "sha256:" + "ab" * 32,
        "calibration": "",
        "layer": "last",
        "final_norm": True,
        "base_size": "224x224",
        "base_fit": "squash",
        "base_interpolation": "pillow bicubic",
        "colour": "rgb",
        "image_size": (224, 224),
        "interpolation": "bicubic",
        "antialias": True,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "precision": "fp32",
        "tf32": False,
        "storage": "float16",
        "images": "cd" * 32,
    }
    return FeatureRecipe(**{**fields, **changes})


def image_ids(count: int = IMAGES) -> list[str]:
    """Ids of different lengths, some not ASCII."""
    return [f"{i:06d}{'é' * (i % 3)}" for i in range(count)]


def volumes(rows: range | list[int]) -> np.ndarray:
    """Features that every process computes alike: (len(rows), H, W, D) float32."""
    made = [np.random.default_rng(row).normal(size=(*GRID, DIM)) for row in rows]
    return np.array(made, dtype=np.float32)


def feature_cache(home: Location, storage: str = "float16", count: int = IMAGES, **changes: Any) -> FeatureCache:
    """An empty cache of ``count`` volumes of 3 × 4 × 8."""
    recipe = feature_recipe(storage=storage, **changes)
    cache = create_cache(
        home,
        features_path("coco", "train", recipe.backbone, recipe.digest),
        recipe=recipe,
        arrays=feature_arrays(storage, GRID, DIM),
        image_ids=image_ids(count),
    )
    assert isinstance(cache, FeatureCache)
    return cache


def fill(cache: FeatureCache, shards: range | list[int] | None = None) -> None:
    """Write :func:`volumes` into some shards, or all, and then manifest and index, as an extraction does."""
    with refresh_manifest(cache):
        for k in range(cache.shard_count) if shards is None else shards:
            rows = cache.shard_rows(k)
            ids = image_ids(len(cache))[rows.start : rows.stop]
            cache.write_shard(k, encode_features(volumes(rows), cache.storage, ids))


def shard_file(cache: Cache, k: int, array: str = "features") -> Path:
    """The file of a shard of a local cache."""
    assert isinstance(cache.location, LocalLocation)
    tail = ".0" * len(cache.arrays[array].item_shape)
    return cache.location.path / array / f"c.{k}{tail}"


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Python's web server with byte ranges, as any server for large files has them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the receipt of its headers

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        given = self.headers.get("Range") if self.server.ranges else None  # type: ignore[attr-defined]
        self.server.requests.append((self.path, given))  # type: ignore[attr-defined]
        if not path.is_file():
            self._answer(404, b"")
            return
        data = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", given or "")
        if not found:
            self._answer(200, data)
        else:
            start = int(found[1]) if found[1] else max(0, len(data) - int(found[2]))
            stop = min(int(found[2]) + 1, len(data)) if found[1] and found[2] else len(data)
            self._answer(206, data[start:stop], f"bytes {start}-{stop - 1}/{len(data)}")

    def _answer(self, status: int, body: bytes, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def served(folder: Path, *, ranges: bool = True) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A web server of a folder: its address, and the (path, Range header) of each request so far."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    server.requests = []  # type: ignore[attr-defined]
    server.ranges = ranges  # type: ignore[attr-defined]
    with in_a_thread(server):
        yield f"http://127.0.0.1:{server.server_port}", server.requests  # type: ignore[attr-defined]
