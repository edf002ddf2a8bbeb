"""A hostile cache is refused with a reason, in little memory, and nothing of it is ever executed."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crc32c import crc32c
from deapcache_caches import feature_cache, feature_recipe, fill, image_ids, served, shard_file
from deapcache_faults import ROOT, Tally, environment

from deapcache.cache import FeatureCache, create_cache, feature_arrays, features_path, open_cache
from deapcache.cache.identifiers import identifier_keys
from deapcache.cache.names import original, safe
from deapcache.cache.serving import HomeServer
from deapcache.errors import CorruptCacheError, DeapcacheError, LocationError
from deapcache.locations import LocalLocation, Location, locate
from deapcache.recipe import digest_of

SEEN = "CorruptCacheError: which file, what it claims, what is possible"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    made = feature_cache(LocalLocation(tmp_path / "home"))
    fill(made, range(2))
    return made


def _edit(cache: FeatureCache, name: str, change: Change) -> None:
    path = cache.location.path / name
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def _refused(cache: FeatureCache, tmp_path: Path, match: str) -> None:
    """On disk and over HTTP alike: opening, reading or asking for ids is one error."""
    # The folder above makes the address one of its own: another test's server may have had the same port, and what a
    # pool remembers of an address is looked at again only as far as servers say when a file was changed.
    with served(tmp_path.parent) as (url, _):
        for place in (cache.location, locate(f"{url}/{cache.location.path.relative_to(tmp_path.parent)}")):
            with pytest.raises(CorruptCacheError, match=match):
                _use(place)


def _use(place: Location) -> None:
    cache = open_cache(place)
    cache.read([0, 4])
    pytest.fail(f"{place} gives {len(cache.image_ids)} ids and volumes")


def _attributes(**changes: object) -> Change:
    return lambda metadata: metadata["attributes"]["deapcache"].update(changes)


ATTRIBUTES: list[dict[str, Any]] = [
    {"images": 2**40},
    {"images": -1},
    {"images": 1.5},
    {"images": True},
    {"images": "130"},
    {"arrays": ["../../secret"]},
    {"arrays": ["/etc"]},
    {"arrays": ["features/../features"]},
    {"arrays": ["features", "features"]},
    {"arrays": []},
    {"arrays": "features"},
    {"arrays": [["features"]]},
    {"kind": "../features"},
    {"kind": ["features"]},
    {"digest": "00" * 32},
    {"recipe": {}},
    {"recipe": None},
    {"recipe": {"backbone": float("nan")}},
    {"dataset": "\x1b]0;owned\x07"},
    {"dataset": "\ud800"},
]


@pytest.mark.parametrize("changes", ATTRIBUTES, ids=lambda changes: repr(changes)[:40])
def test_hostile_attributes(cache: FeatureCache, tmp_path: Path, tally: Tally, changes: dict[str, Any]) -> None:
    _edit(cache, "zarr.json", _attributes(**changes))
    with tally.fault("hostile metadata: attributes", SEEN):
        _refused(cache, tmp_path, r"zarr\.json")


def test_a_recipe_that_lies_about_its_digest(cache: FeatureCache, tmp_path: Path, tally: Tally) -> None:
    for lie in ({"tf32": True}, {"weights": "sha256:" + "00" * 32}, {"backbone": "vit-l-14"}):
        _edit(cache, "zarr.json", _attributes(recipe={**cache.recipe, **lie}))
        with tally.fault("a recipe that lies about its digest", "CorruptCacheError: both digests"):
            _refused(cache, tmp_path, f"the recipe has the digest .*, but {cache.digest} is written beside it")


@pytest.mark.parametrize(
    "lie",
    [
        {"image_size": [224]},
        {"image_size": "224x224"},
        {"image_size": [224, 2.5]},
        {"mean": [0.5, "0.5", 0.5]},
        {"tf32": 1},
        {"storage": ["float16"]},
        {"backbone": None},
        {"arguments": [1]},
        {"omitted": "all"},
        {"view": 3},
    ],
    ids=repr,
)
def test_a_recipe_of_other_types(cache: FeatureCache, tmp_path: Path, tally: Tally, lie: dict[str, Any]) -> None:
    recipe = {**cache.recipe, **lie}
    digest = digest_of({"kind": "features", **{name: value for name, value in recipe.items() if name != "omitted"}})
    _edit(cache, "zarr.json", _attributes(recipe=recipe, digest=digest))
    with tally.fault("a recipe of other types", SEEN):
        _refused(cache, tmp_path, rf"zarr\.json: features recipe has a {next(iter(lie))} of another type")


def _shape(number: object, axis: int) -> Change:
    def change(metadata: dict[str, Any]) -> None:
        metadata["shape"][axis] = number
        if axis:
            metadata["chunk_grid"]["configuration"]["chunk_shape"][axis] = number
            metadata["codecs"][0]["configuration"]["chunk_shape"][axis] = number

    return change


def _shard(number: object) -> Change:
    return lambda metadata: metadata["chunk_grid"]["configuration"]["chunk_shape"].__setitem__(0, number)


def _codecs(*names: str) -> Change:
    codecs = [{"name": name, "configuration": {"level": 1}} for name in names]
    return lambda metadata: metadata["codecs"][0]["configuration"].update(codecs=codecs)


ABSURD: dict[str, Change] = {
    "2^40 images": _shape(2**40, 0),
    "-1 images": _shape(-1, 0),
    "half an image": _shape(129.5, 0),
    "2^40 channels": _shape(2**40, 3),
    "2^62 rows": _shape(2**62, 1),
    "2^30 rows": _shape(2**30, 1),
    "no channel": _shape(0, 3),
    "-8 channels": _shape(-8, 3),
    "8.0 channels": _shape(8.0, 3),
    "channels in words": _shape("eight", 3),
    "shards of 2^40": _shard(2**40),
    "shards of 2^62": _shard(2**62),
    "shards of 0": _shard(0),
    "Python objects": lambda metadata: metadata.update(data_type="object"),
    "raw records": lambda metadata: metadata.update(data_type="<V9"),
    "a type that is a list": lambda metadata: metadata.update(data_type=["float16"]),
    "gzip, a bomb": _codecs("bytes", "gzip", "blosc", "crc32c"),
    "no checksum": _codecs("bytes", "blosc"),
    "an index without checksum": lambda m: m["codecs"][0]["configuration"].update(index_codecs=[{"name": "bytes"}]),
    "no codecs": lambda metadata: metadata.update(codecs=[]),
}


@pytest.mark.parametrize("claim", ABSURD)
def test_absurd_arrays(cache: FeatureCache, tmp_path: Path, tally: Tally, claim: str) -> None:
    _edit(cache, "features/zarr.json", ABSURD[claim])
    with tally.fault("hostile metadata: shapes, types, codecs", SEEN):
        _refused(cache, tmp_path, r"features/zarr\.json")


@pytest.mark.parametrize("length", [2**40, 2**62, -1, 1, 7.5, "many"])
@pytest.mark.parametrize("array", ["image_id", "image_id_offsets"])
def test_absurd_image_ids(cache: FeatureCache, tmp_path: Path, tally: Tally, array: str, length: object) -> None:
    def change(metadata: dict[str, Any]) -> None:
        metadata["shape"] = [length]
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = [length]

    _edit(cache, f"{array}/zarr.json", change)
    with tally.fault("hostile metadata: image ids", SEEN):
        _refused(cache, tmp_path, array)


def _with_ids(cache: FeatureCache, offsets: list[int], joined: bytes) -> None:
    """Ids that are stored properly, and say nonsense."""
    from deapcache.cache import identifiers
    from deapcache.cache.store import encode_chunks

    for name, values in (("image_id_offsets", np.array(offsets)), ("image_id", np.frombuffer(joined, np.uint8))):
        folder, metadata = cache.location.path / name, identifiers.identifier_metadata(name, len(values))
        (folder / "zarr.json").write_text(json.dumps(metadata))
        for key, data in encode_chunks(metadata, range(len(values)), values).items():
            (folder / key).write_bytes(data)


@pytest.mark.parametrize(
    ("offsets", "joined", "match"),
    [
        ([*range(130), 5], b"x" * 5, "does not rise"),
        ([7, *range(1, 131)], b"x" * 130, "does not rise"),
        ([0] + [-1] * 130, b"", "does not rise"),
        ([*range(131)], b"\xff" * 130, "no UTF-8"),
        ([0] + [2**40] * 130, b"x", "expected 1099511627776"),
        ([*range(130)], b"x" * 129, "expected 131"),
    ],
)
def test_image_ids_that_are_none(
    cache: FeatureCache, tmp_path: Path, tally: Tally, offsets: list[int], joined: bytes, match: str
) -> None:
    _with_ids(cache, offsets, joined)
    with tally.fault("hostile image ids", SEEN):
        _refused(cache, tmp_path, match)


def _rewritten(cache: FeatureCache, change: Callable[[bytearray, np.ndarray], None]) -> None:
    """Shard 0 after ``change`` of its bytes and index, with checksums that are right again."""
    path = shard_file(cache, 0)
    raw = bytearray(path.read_bytes())
    tail = 16 * 3 + 4
    data, index = raw[:-tail], np.frombuffer(bytes(raw[-tail:-4]), "<u8").reshape(-1, 2).copy()
    change(data, index)
    packed = index.tobytes()
    path.write_bytes(bytes(data) + packed + struct.pack("<I", crc32c(packed)))


@pytest.mark.parametrize(
    "entry",
    [
        (0, 2**40),
        (2**40, 100),
        (2**63, 100),
        (0, 2**63),
        (2**64 - 2, 2),
        (0, 0),
        (0, 3),
        (0, 5),
        (2**64 - 1, 2**64 - 1),
    ],
)
def test_a_shard_index_that_points_elsewhere(
    cache: FeatureCache, tmp_path: Path, tally: Tally, entry: tuple[int, int]
) -> None:
    _rewritten(cache, lambda data, index: index.__setitem__(0, entry))
    with tally.fault("a shard index that points elsewhere", "CorruptCacheError: which shard and image"):
        _refused(cache, tmp_path, r"c\.0\.0\.0\.0: damaged, image '000000' \(row 0\)")


@pytest.mark.parametrize("claimed", [2**31 - 100, 2**32 - 1, 0, 1, 191, 193])
def test_a_chunk_that_unpacks_to_another_size(cache: FeatureCache, tmp_path: Path, tally: Tally, claimed: int) -> None:
    def change(data: bytearray, index: np.ndarray) -> None:
        offset, length = (int(number) for number in index[0])
        data[offset + 4 : offset + 8] = struct.pack("<I", claimed)
        data[offset + length - 4 : offset + length] = struct.pack(
            "<I", crc32c(bytes(data[offset : offset + length - 4]))
        )

    _rewritten(cache, change)
    with tally.fault("a chunk that claims another size", "CorruptCacheError: which shard and image"):
        _refused(cache, tmp_path, r"c\.0\.0\.0\.0: damaged, image '000000' \(row 0\)")


def test_image_ids_are_never_paths(tmp_path: Path) -> None:
    ids = ["../../../escape", "/etc/passwd", "<script>alert(1)</script>", "[/red]", "\x1b[2J", *image_ids(5)]
    home = LocalLocation(tmp_path / "home")
    recipe = feature_recipe()
    cache = create_cache(home, "x.zarr", recipe=recipe, arrays=feature_arrays("float16", (3, 4), 8), image_ids=ids)
    assert isinstance(cache, FeatureCache)
    assert open_cache(cache.location).image_ids == tuple(ids)
    with pytest.raises(DeapcacheError) as raised:
        cache.read(range(5))
    assert "\x1b" not in str(raised.value)
    assert {path.name for path in tmp_path.iterdir()} == {"home"}
    assert list(dict(identifier_keys(ids)))  # written as bytes of one array, whatever they say


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "..", ".hidden", "<b>", "[red]", "\x1b[2J", "a\nb", "%2e%2e", "é", "~41."]
)
def test_names_are_one_plain_part_of_a_path(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_@+=~-][A-Za-z0-9_.@+=~-]*", safe(name))
    assert original(safe(name)).isprintable()
    if name.isprintable() and "~" not in name:
        assert original(safe(name)) == name


def test_codes_that_are_no_character_stay_as_they_are() -> None:
    for part in ("~ffffffffffff.", "~110000.", "~1b.", "~a.", "~d800."):
        assert original(part) == part


def test_names_with_markup_and_control_characters_are_shown_as_text(tmp_path: Path) -> None:
    home = LocalLocation(tmp_path / "home")
    name = "[/red][link=http://evil]<b>:smile:"
    recipe = feature_recipe(backbone=name)
    path = f"features/~5b.~2f.x~1b.~5d./tr~7f.ain/{safe(name)}-{recipe.digest[:12]}.zarr"
    create_cache(home, path, recipe=recipe, arrays=feature_arrays("float16", (3, 4), 8), image_ids=["a"])
    for verb in (["ls"], ["info", recipe.digest[:12]]):
        command = [sys.executable, "-c", "from deapcache.cli import main; main()", "cache", *verb, "--home", str(home)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
        assert name in done.stdout
        assert "\x1b" not in done.stdout


def test_names_with_html_are_text_on_the_page_of_a_served_home(tmp_path: Path) -> None:
    home = LocalLocation(tmp_path / "home")
    name = "<script>alert(1)</script>"
    recipe = feature_recipe(backbone=name, view="<img src=x onerror=alert(2)>")
    path = features_path('"><b>', "<i>", name, recipe.digest)
    create_cache(home, path, recipe=recipe, arrays=feature_arrays("float16", (3, 4), 8), image_ids=["<u>"])
    server = HomeServer(home, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        with urllib.request.urlopen(server.url, timeout=60) as answer:
            page = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "onerror=alert(2)&gt;" in page
    assert not re.search(r"<(script|img|b|i|u)\b", page)


class Malice:
    """Unpickling it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_pickles_are_never_unpickled(tmp_path: Path, tally: Tally) -> None:
    import torch

    from deapcache.backbones import build
    from deapcache.datasets.depth import read_depth_npy
    from deapcache.readouts.lightning import read_state

    trace = tmp_path / "executed"
    malice = Malice(trace)
    torch.save({"state_dict": malice}, tmp_path / "weights.ckpt")
    np.save(tmp_path / "depth.npy", np.array([malice], dtype=object), allow_pickle=True)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(malice))
    attempts: list[Callable[[], object]] = [
        lambda: build("efficientnet-lite0-s16", weights=tmp_path / "weights.ckpt"),
        lambda: build("efficientnet-lite0-s16", weights=tmp_path / "plain.pt"),
        lambda: read_state(tmp_path / "weights.ckpt"),
        lambda: read_depth_npy(tmp_path / "depth.npy"),
    ]
    for attempt in attempts:
        with tally.fault("a file with code to run", "an error that names the file; nothing runs"):
            with contextlib.suppress(DeapcacheError):
                attempt()
            assert not trace.exists()
    pickle.loads(pickle.dumps(malice))  # the trap works
    assert trace.exists()


UNSAFE = {
    r"\bpickle\.(load|loads|Unpickler)\b": "unpickles",
    r"torch\.load\((?![^)]*weights_only=True)": "loads more than weights",
    r"allow_pickle\s*=\s*True": "unpickles",
    r"\bnp\.load\((?![^)]*allow_pickle=False)": "does not say allow_pickle=False",
    r"yaml\.(load|unsafe_load|full_load)\(": "builds what a document says",
    r"(?<![\w.])(?<!def )(eval|exec)\(": "runs text",
    r"\b(joblib|dill|cloudpickle|shelve|marshal)\b": "unpickles",
    r"shell\s*=\s*True": "runs a shell",
    r"os\.system\(": "runs a shell",
}


def test_no_line_of_the_package_executes_what_it_reads() -> None:
    found = [
        f"{file}: {why}"
        for file in sorted((ROOT / "deapcache").rglob("*.py"))
        if file.name != "plugins.py"  # whose purpose it is; a user names the files
        for pattern, why in UNSAFE.items()
        if re.search(pattern, file.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"format": 1, "keys": {"../../x": 1}}', b'{"format": 1, "keys": 3}']
)
def test_a_hostile_manifest_is_refused(cache: FeatureCache, tmp_path: Path, tally: Tally, content: bytes) -> None:
    (cache.location.path / "manifest.json").write_bytes(content)
    with served(tmp_path.parent) as (url, _), tally.fault("a hostile manifest", "LocationError that names it"):
        place = locate(f"{url}/{cache.location.path.relative_to(tmp_path.parent)}")
        with pytest.raises(LocationError, match=r"manifest\.json is not what deapcache writes"):
            place.keys()
