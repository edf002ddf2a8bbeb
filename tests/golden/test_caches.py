"""What lies on disk: recipes, metadata, shards and index files of caches of every storage format and kind of target.

Features are of a backbone that gives the same bits on every CPU where images are not resized for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from deapcache_golden import EXACT, Golden, masked, quiet_surroundings, recipe_digest, run, sha256, shown
from deapcache_golden_data import write_datasets

from deapcache import open_dataset

DTYPES = ("float16", "bfloat16", "float32", "int8")
SEEN = "56x56"
RESIZED = ("8x8", "16x24", "native")

WHEN_AND_WHO = ("home", "who", "when", "last_use", "provenance", "bytes")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small datasets in several layouts."""
    return write_datasets(tmp_path_factory.mktemp("golden") / "data")


@pytest.fixture(scope="module")
def homes(data: Path) -> Iterator[dict[str, Path]]:
    """One home with compressed features, and one with the same uncompressed; shards hold several images."""
    with quiet_surroundings(EXACT):
        found = {name: data.parent / name for name in ("packed", "plain")}

        def extract(*options: object, dataset: str = "folder:many", home: str = "packed") -> None:
            place = ["--data-root", data, "--home", found[home], "--device", "cpu"]
            backbone = [] if "--backbone" in options else ["--backbone", "exact-56"]
            done = run("extract", *backbone, "--dataset", dataset, *place, *options)
            assert done.code == 0, done.err

        few = ("--limit", 6, "--base-size", SEEN)
        for dtype in DTYPES:
            extract(*few, "--dtype", dtype, "--split", "train,val" if dtype == "float16" else "train")
            extract(*few, "--dtype", dtype, "--split", "train", "--no-compress", home="plain")
        for option in (["--precision", "bf16"], ["--precision", "fp16"], ["--views", "hflip"], ["--fit", "crop"]):
            extract(*few, "--split", "train", *option)
        extract(*few, "--split", "val", "--backbone", "exact-56@untrained,exact")
        for size in RESIZED[1:]:
            extract("--split", "val", "--base-size", size)
        extract("--split", "train", "--base-size", RESIZED[0])  # all images, the last shard with fewer
        for dataset in ("coco", "coco-stuff", "voc", "nyuv2"):
            extract("--split", "val", "--base-size", SEEN, dataset=dataset)
        extract("--split", "val", "--backbone", "exact", dataset="nyuv2")  # a base size of the dataset's own
        yield found


def _caches(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*.zarr") if path.is_dir())


def _attributes(cache: Path) -> dict[str, Any]:
    found = json.loads((cache / "zarr.json").read_text())["attributes"]["deapcache"]
    assert isinstance(found, dict)
    return found


def _is_exact(cache: Path) -> bool:
    """Whether the backbone saw images as they were cached: resizing them for it is floating-point arithmetic."""
    facts = _attributes(cache)
    recipe = facts["recipe"]
    return facts["kind"] != "features" or recipe["base_size"] == "x".join(map(str, recipe["image_size"]))


def test_identity_of_the_rendered_scenes(golden: Golden, tmp_path: Path) -> None:
    """Of images and annotations; nothing is rendered."""
    scenes, found = open_dataset("scenes", tmp_path), {}
    for split in ("train", "val"):
        digests = scenes.image_digests(split)
        found[split] = {"images": len(digests), "first": digests[0], "all": sha256("".join(digests).encode())}
        found[split] |= {kind: scenes.annotation_digest(split, kind) for kind in scenes.annotations}
    golden.json("scenes/identity.json", found)


def test_pixels_of_the_rendered_scenes(golden: Golden, tmp_path: Path) -> None:
    """Every 20th of each axis: within one level, since sines and roots may differ in their last bit."""
    scenes = open_dataset("scenes", tmp_path)
    for split, row in (("train", 5), ("val", 0)):
        image = scenes.read_image(split, row)[10::20, 10::20]
        golden.json(f"scenes/{split}-{row}-image.json", image.astype(float).ravel().tolist(), absolute=1.0)
        for kind in ("instances", "classes"):
            values = scenes.read_annotation(split, row, kind)[10::20, 10::20]
            golden.text(f"scenes/{split}-{row}-{kind}.txt", "\n".join(" ".join(map(str, line)) for line in values))
        depth = scenes.read_annotation(split, row, "depth")[10::40, 10::40]
        golden.json(f"scenes/{split}-{row}-depth.json", depth.astype(float).ravel().tolist(), tolerance=1e-4)
        boxes = scenes.read_annotation(split, row, "boxes")
        golden.json(f"scenes/{split}-{row}-boxes.json", boxes.tolist(), tolerance=1e-3)


def test_recipes(golden: Golden, homes: dict[str, Path]) -> None:
    """The names of caches are those of their recipes, and the recipes hold what they held."""
    found = {}
    for cache in _caches(homes["packed"]):
        facts = _attributes(cache)
        assert recipe_digest(facts["kind"], facts["recipe"]) == facts["digest"]
        assert cache.stem.endswith(facts["digest"][:12])
        found[str(cache.relative_to(homes["packed"]))] = facts
    golden.json("caches/recipes.json", found)


@pytest.mark.parametrize("name", ["packed", "plain"])
def test_bytes_of_shards_and_metadata(golden: Golden, homes: dict[str, Path], name: str) -> None:
    home, lines = homes[name], []
    for cache in _caches(home):
        for file in sorted(cache.rglob("*")):
            inside = file.relative_to(cache).parts[0]
            if not file.is_file() or inside in ("provenance", "manifest.json", "claims"):
                continue
            exact = _is_exact(cache) or file.name == "zarr.json" or inside.startswith("image_id")
            told = f"{file.stat().st_size:7} {sha256(file.read_bytes())}" if exact else "of this CPU"
            lines.append(f"{told} {file.relative_to(home)}")
    golden.text(f"caches/bytes-{name}.txt", "\n".join(lines))


def test_values_as_any_zarr_library_reads_them(golden: Golden, homes: dict[str, Path]) -> None:
    """Where bytes change and these do not, it is the compression that has changed."""
    lines = []
    for name, home in homes.items():
        for cache in filter(_is_exact, _caches(home)):
            group = zarr.open_group(cache, mode="r")
            for array in _attributes(cache)["arrays"]:
                values = np.ascontiguousarray(group[array][:])
                told = f"{values.dtype} {list(values.shape)} {sha256(values.tobytes())}"
                lines.append(f"{name}/{cache.relative_to(home)}/{array}: {told}")
    golden.text("caches/values.txt", "\n".join(lines))


def test_metadata_of_arrays(golden: Golden, homes: dict[str, Path]) -> None:
    """One of each kind, by data type, codecs and shape of an entry."""
    found: dict[str, Any] = {}
    for name, home in homes.items():
        for cache in _caches(home):
            for file in sorted(cache.glob("*/zarr.json")):
                document = json.loads(file.read_text())
                shape = "x".join(map(str, document["shape"][1:]))
                kind = f"{file.parent.name} {document['data_type']} {shape}".strip()
                found.setdefault(f"{kind} {'' if name == 'packed' else name}".strip(), document)
    golden.json("caches/arrays.json", found)


def test_manifests_and_index(golden: Golden, homes: dict[str, Path]) -> None:
    home = homes["packed"]
    index = json.loads((home / "index.json").read_text())
    golden.json("caches/index.json", masked(index, ["bytes"]))
    lines = []
    for cache in _caches(home):
        manifest = json.loads((cache / "manifest.json").read_text())
        keys = sorted(re.sub(r"provenance/.*", "provenance/*", key) for key in manifest.pop("keys"))
        manifest["bytes"] = "*"
        lines.append(f"{cache.relative_to(home)}: {json.dumps(manifest)}")
        lines += [f"  {key}" for key in keys]
    golden.text("caches/manifests.txt", "\n".join(lines))


def test_listing(golden: Golden, homes: dict[str, Path]) -> None:
    home = homes["packed"]
    golden.json("caches/ls.json", masked(run("cache", "ls", "--home", home, "--json").json, WHEN_AND_WHO))
    filtered = run("cache", "ls", "--home", home, "--filter", "storage=int8", "--filter", "split=train", "--json")
    golden.json("caches/ls-filtered.json", masked(filtered.json, WHEN_AND_WHO))


def test_information(golden: Golden, homes: dict[str, Path]) -> None:
    home = homes["packed"]
    (whole,) = run("cache", "ls", "--home", home, "--filter", "storage=int8", "--json").json
    found = run("cache", "info", whole["path"], "--home", home, "--statistics", "--json").json
    golden.json("caches/info.json", masked(found, WHEN_AND_WHO), tolerance=1e-6)


def test_differences_and_verification(golden: Golden, homes: dict[str, Path]) -> None:
    home = homes["packed"]
    by_storage = {
        dtype: run("cache", "ls", "--home", home, "--filter", f"storage={dtype}", "--filter", "split=train", "--json")
        for dtype in ("int8", "float32")
    }
    paths = [found.json[0]["path"] for found in by_storage.values()]
    golden.text("caches/diff.txt", shown(run("cache", "diff", *paths, "--home", home).out, {"HOME": home}))
    verified = run("cache", "verify", "--home", home)
    assert verified.code == 0, verified.err
    golden.text("caches/verify.txt", shown(re.sub(r"[\d.]+ [kM]?B in .*?/s\)", "<rate>", verified.out), {"HOME": home}))
