"""Bundles of results: what is merged, and what is refused and why."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deapcache_toys as toys
import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from deapcache.errors import BundleError, UnknownNameError
from deapcache.locations import LocalLocation
from deapcache.results import Result, load_results, load_statistics, save_run
from deapcache.results.bundle import KIND, add_bundle, find_runs, pack_bundle
from deapcache.results.speeds import Speed, speed_key, write_speed

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> LocalLocation:
    """A home with two seeds of a readout, probed and saved."""
    torch.set_num_threads(1)
    home = LocalLocation(tmp_path_factory.mktemp("sender"))
    for split in toys.COUNTS:
        toys.add_features(home, split)
        toys.add_targets(home, split, "instances")
    for one in toys.probe(home, seeds=(0, 1), iterations=2):
        save_run(
            home, one.to_json(), statistics=one.statistics, prior_statistics=one.baseline_statistics,
            image_ids=one.image_ids, weights=one.weights,
        )  # fmt: skip
    return home


@pytest.fixture
def run(sender: LocalLocation) -> str:
    return find_runs(sender, ["foreground"])[0]


@pytest.fixture
def packed(sender: LocalLocation, run: str, tmp_path: Path) -> Files:
    """The files of a bundle of one run."""
    file = tmp_path / "packed.zip"
    file.write_bytes(pack_bundle(sender, [run]).data)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def refused(home: LocalLocation, tmp_path: Path) -> Callable[[Files], str]:
    """A function that says why a bundle of these files is refused, and sees that nothing of it was merged."""

    def why(files: Files, *, sign: bool = True) -> str:
        return refusal(home, zipped(tmp_path, signed(files) if sign else files))

    return why


def signed(files: Files) -> Files:
    """The files with a manifest that has their true lengths and digests."""
    manifest = json.loads(files["manifest.json"])
    others = {name: data for name, data in files.items() if name != "manifest.json"}
    manifest["files"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in others.items()
    }
    return {"manifest.json": json.dumps(manifest).encode(), **others}


def zipped(folder: Path, files: Files, method: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder / "bundle.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def refusal(home: LocalLocation, path: Path) -> str:
    with pytest.raises(BundleError) as raised:
        add_bundle(path, home)
    assert home.keys() == []
    assert str(raised.value).startswith(f"bundle {path} is refused: ")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def edited(files: Files, run: str, change: Callable[[dict[str, Any]], object]) -> Files:
    """The files with another result of the run."""
    key = f"results/{run}.json"
    document = json.loads(files[key])
    change(document)
    return {**files, key: json.dumps(document).encode()}


def test_what_is_packed_is_merged_byte_for_byte_and_once(sender, home, tmp_path: Path) -> None:
    runs = find_runs(sender, ["foreground"])
    path = tmp_path / "bundle.zip"
    path.write_bytes(pack_bundle(sender, runs).data)
    report = add_bundle(path, home)
    assert (report.added, report.there) == (tuple(runs), ())
    assert report.bundle == hashlib.sha256(path.read_bytes()).hexdigest()
    for key in home.keys("results") + home.keys("readouts"):
        assert home.read(key) == sender.read(key)
    assert load_results(home) == load_results(sender)
    assert load_statistics(home, runs[0]).image_ids == load_statistics(sender, runs[0]).image_ids
    assert home.keys("features") == home.keys("targets") == []
    again = add_bundle(path, home)
    assert (again.added, again.there) == ((), tuple(runs))


def test_another_result_of_the_same_run_stays(sender, run, packed, home, tmp_path: Path) -> None:
    mine = json.dumps({**json.loads(sender.read(f"results/{run}.json")), "date": "2020-01-01T00:00:00+00:00"})
    home.publish(f"results/{run}.json", mine.encode())
    with pytest.raises(BundleError, match=f"run {run}: .* has another result of that name"):
        add_bundle(zipped(tmp_path, packed), home)
    assert home.keys() == [f"results/{run}.json"]


def test_runs_are_found_by_name_and_beginning(sender, run) -> None:
    assert find_runs(sender, [run, "foreground"]) == find_runs(sender, ["foreground"])
    with pytest.raises(UnknownNameError, match=r"no result in .* begins with 'depth'"):
        find_runs(sender, ["depth"])


def test_a_large_picture_is_left_out(sender, run, tmp_path: Path) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    sender.publish(f"results/{run}.png", (tmp_path / "large.png").read_bytes())
    try:
        done = pack_bundle(sender, [run])
    finally:
        sender.delete(f"results/{run}.png")
    assert done.without_picture == (run,)
    assert len(done.data) < 1_000_000


def test_a_run_that_lacks_a_file_is_not_packed(sender, run, home) -> None:
    home.publish(f"results/{run}.json", sender.read(f"results/{run}.json"))
    with pytest.raises(BundleError, match=r"has no results/.*stats\.safetensors; run its probe again"):
        pack_bundle(home, [run])


def test_an_untouched_bundle_that_is_signed_again_is_merged(packed, home, tmp_path: Path) -> None:
    assert add_bundle(zipped(tmp_path, signed(packed)), home).added


def test_a_result_of_before_a_metric_and_another_main_one_came_is_merged(home, tmp_path: Path) -> None:
    """Boundaries had no ``iou_fitted``, and ``iou`` was the main metric."""
    older = LocalLocation(tmp_path / "older")
    toys.add_features(older, "train"), toys.add_features(older, "val")
    toys.add_targets(older, "train", "instances"), toys.add_targets(older, "val", "instances")
    (one,) = toys.probe(older, ("boundaries",), iterations=2)
    facts = one.to_json() | {"main_metric": "iou"}
    for part in ("scores", "prior", "metrics"):
        facts[part] = {name: value for name, value in facts[part].items() if name != "iou_fitted"}
    statistics, prior = (
        {name: values for name, values in kept.items() if not name.startswith("fitted_")}
        for kept in (one.statistics, one.baseline_statistics)
    )
    made = save_run(
        older, facts, statistics=statistics, prior_statistics=prior, image_ids=one.image_ids, weights=one.weights
    )
    path = tmp_path / "older.zip"
    path.write_bytes(pack_bundle(older, [made.run]).data)
    assert add_bundle(path, home).added == (made.run,)
    assert [result.main_metric for result in load_results(home)] == ["iou"]


# What a result may claim


CLAIMS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "score": (lambda d: d["scores"].update({d["main_metric"]: 0.99}), "is 0.990000, its statistics give 0."),
    "prior": (lambda d: d["prior"].update({d["main_metric"]: 0.9}), "is 0.900000, its statistics give 0."),
    "NaN": (lambda d: d["scores"].update({d["main_metric"]: None}), "is no number"),
    "another main metric": (lambda d: d.update(main_metric="average_precision"), "whose main metric is"),
    "invented metric": (lambda d: d["scores"].update(mine=1.0), "give other scores than it has"),
    "protocol": (lambda d: d["protocol"].update(iterations=9), "its protocol does not have the digest that it says"),
    "protocol's fields": (lambda d: d["protocol"].update(more=1), "unknown field(s) more"),
    "digest": (lambda d: d.update(protocol_digest="0" * 64), "its protocol does not have the digest that it says"),
    "recipe": (lambda d: d["caches"]["val"]["recipe"].update(storage="int8"), "the recipe of its val does not have"),
    "backbone": (lambda d: d.update(backbone="dinov2"), "its train features are of another backbone"),
    "seed": (lambda d: d.update(seed=5), "its name is not the one that its contents have"),
    "task": (lambda d: d.update(task="depth"), "its protocol is of another task or readout"),
    "images": (lambda d: d.update(val_images=500), "its statistics are not of the 500 images"),
    "schema": (lambda d: d.update(schema=2), "its schema is 2, this deapcache reads 1"),
    "a field more": (lambda d: d.update(html="<script>"), "has fields that this deapcache does not know"),
    "a field less": (lambda d: d.pop("protocol"), "protocol: field required"),
    "text for a number": (
        lambda d: d["scores"].update({d["main_metric"]: "0.5"}),
        "scores.mean_iou: input should be a valid number, found '0.5'",
    ),
    "number for text": (lambda d: d.update(device=4), "device: input should be a valid string"),
    "no table": (lambda d: d.update(protocol=[1]), "protocol: input should be an object, found [1]"),
    "no recipe": (lambda d: d["caches"]["train"].update(recipe=None), "caches.train.recipe: input should be an object"),
    "about its backbone": (
        lambda d: d.update(about={"parameters": "<b>"}),
        "about.parameters: input should be a valid integer",
    ),
    "about more": (lambda d: d.update(about={"more": 1}), "fields that this deapcache does not know: more"),
    "date": (lambda d: d.update(date="yesterday"), "date: value error"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_result_that_does_not_follow_from_its_contents_is_refused(refused, packed, run, claim: str) -> None:
    change, expected = CLAIMS[claim]
    why = refused(edited(packed, run, change))
    assert expected in why
    assert f"run {run}: " in why


def test_a_task_that_is_not_known_here_is_refused(sender, home, tmp_path: Path) -> None:
    from deapcache.recipe import Protocol
    from deapcache.results.record import run_id

    old = find_runs(sender, ["foreground"])[0]
    document = json.loads(sender.read(f"results/{old}.json"))
    document["protocol"]["task"] = document["task"] = "no_progress-of"
    document["protocol_digest"] = Protocol.from_json(document["protocol"]).digest
    document["run"] = new = run_id(document)
    files = {
        "manifest.json": json.dumps({"kind": KIND, "schema": 1, "made": "", "deapcache": "", "runs": [new]}).encode(),
        f"results/{new}.json": json.dumps(document).encode(),
        f"results/{new}.stats.safetensors": sender.read(f"results/{old}.stats.safetensors"),
        f"readouts/{new}.safetensors": sender.read(f"readouts/{old}.safetensors"),
    }
    assert "unknown task 'no_progress-of'" in refusal(home, zipped(tmp_path, signed(files)))


def test_other_arrays_are_refused(refused, packed, run) -> None:
    statistics, readout = f"results/{run}.stats.safetensors", f"readouts/{run}.safetensors"
    arrays = load(packed[statistics])
    name = next(name for name in arrays if name.startswith("run/"))
    assert "cannot be read: Safetensor" in refused({**packed, statistics: b"no arrays at all"})
    assert "are not of the 12 images" in refused({**packed, statistics: save({**arrays, name: arrays[name][:3]})})
    assert "its statistics give" in refused({**packed, statistics: save({**arrays, name: arrays[name] + 1})})
    assert "cannot be read" in refused({**packed, statistics: save({n: a for n, a in arrays.items() if "/" in n})})
    weights = load(packed[readout])
    assert "its readout is of another run" in refused({**packed, readout: save(weights)})
    told = json.loads(packed[f"results/{run}.json"])["build"]
    assert "built otherwise" in refused(
        {
            **packed,
            readout: save(weights, {"deapcache": json.dumps({"run": run, "readout": {**told, "name": "anyup"}})}),
        }
    )
    facts = {"deapcache": json.dumps({"run": run, "readout": told})}
    broken = {key: np.full_like(value, np.nan) for key, value in weights.items()}
    assert "weights that are no numbers" in refused({**packed, readout: save(broken, facts)})


def test_a_picture_that_is_none_is_refused(refused, packed, run) -> None:
    assert "its picture cannot be read" in refused({**packed, f"results/{run}.png": b"<svg onload=alert(1)>"})


# What a zip file may hold


def test_a_flipped_bit_is_refused(refused, packed, run) -> None:
    key = f"readouts/{run}.safetensors"
    data = bytearray(packed[key])
    data[-1] ^= 1
    assert f"{key} is not what manifest.json says" in refused({**packed, key: bytes(data)}, sign=False)


@pytest.mark.parametrize(
    "name", ["../../evil.json", "/etc/passwd", "results/../../x.json", "features/x", "C:\\x", "a/"]
)
def test_a_name_beside_those_of_its_runs_is_refused(refused, packed, name: str) -> None:
    assert "which its manifest does not list" in refused({**packed, name: b"1"}, sign=False)
    assert "which is no file of its runs and no speed" in refused({**packed, name: b"1"})


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a\\b", "x" * 300, "ä", "a\n"])
def test_a_run_with_another_kind_of_name_is_refused(refused, packed, name: str) -> None:
    manifest = {**json.loads(packed["manifest.json"]), "runs": [name]}
    assert "is no name of a run" in refused({"manifest.json": json.dumps(manifest).encode()})


def test_a_missing_file_is_refused(refused, packed, run) -> None:
    files = {name: data for name, data in packed.items() if not name.startswith("readouts")}
    assert f"does not list readouts/{run}.safetensors" in refused(files)
    assert f"it lacks readouts/{run}.safetensors" in refused(files, sign=False)
    assert "it lacks manifest.json" in refused({"a": b"1"}, sign=False)


def test_a_bomb_is_refused_before_it_is_unpacked(packed, run, home, tmp_path: Path, monkeypatch) -> None:
    key = f"results/{run}.stats.safetensors"
    bomb = signed({**packed, key: bytes(300_000_000)})
    path = zipped(tmp_path, bomb)
    assert path.stat().st_size < 1_000_000
    monkeypatch.setattr(zipfile.ZipExtFile, "read", _at_most(1_000_000))
    assert f"{key} has 300,000,000 bytes, at most 256,000,000 are taken" in refusal(home, path)
    listed = {**bomb, "manifest.json": packed["manifest.json"]}
    assert f"{key} unpacks to 300,000,000 bytes" in refusal(home, zipped(tmp_path, listed))


def _at_most(limit: int) -> Callable[..., bytes]:
    original = zipfile.ZipExtFile.read

    def read(self: zipfile.ZipExtFile, n: int = -1) -> bytes:
        data = original(self, n)
        assert len(data) <= limit
        return data

    return read


def test_a_length_that_lies_is_refused(packed, run, home, tmp_path: Path) -> None:
    """The zip's own table says 10 bytes, and the packed data are a million."""
    key = f"results/{run}.json"
    path = zipped(tmp_path, {**packed, key: bytes(1_000_000)})
    data = path.read_bytes()
    true, lie = (1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")
    assert data.count(true) == 2
    path.write_bytes(data.replace(true, lie))
    assert f"{key} " in refusal(home, path)


def test_another_packing_is_refused(packed, home, tmp_path: Path) -> None:
    assert "packed otherwise" in refusal(home, zipped(tmp_path, packed, zipfile.ZIP_LZMA))


def test_a_name_that_comes_twice_is_refused(packed, home, tmp_path: Path) -> None:
    path = zipped(tmp_path, packed)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("manifest.json", packed["manifest.json"])
    assert "it holds 'manifest.json' twice" in refusal(home, path)


def test_very_many_names_are_refused_before_they_are_listed(home, tmp_path: Path) -> None:
    path = zipped(tmp_path, {f"{number}": b"" for number in range(6_000)}, zipfile.ZIP_STORED)
    assert "it lists 6,000 files, at most 5,001 are taken" in refusal(home, path)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x05\x06", b"no zip at all, but long enough to be one", b"PK\x05\x06" + b"\1" * 18]
)
def test_what_is_no_zip_is_refused(home, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(data)
    assert "no plain zip file" in refusal(home, path)


MANIFESTS = {
    "no JSON": b"{",
    "NaN": b'{"kind": NaN}',
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "another kind": b'{"kind": "x", "schema": 1}',
    "newer": json.dumps({"kind": KIND, "schema": 2}).encode(),
    "infinite": json.dumps({"kind": KIND, "schema": 1, "files": {"a": {"bytes": 0, "sha256": ""}}})
    .replace("0,", "1e999,")
    .encode(),
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_is_none_is_refused(refused, case: str) -> None:
    assert "manifest.json" in refused({"manifest.json": MANIFESTS[case]}, sign=False)


def test_a_bundle_that_is_not_there_is_told(home, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no such file; `deapcache submit RUN --out FILE.zip` makes one"):
        add_bundle(tmp_path / "none.zip", home)


def _without_added_fields(document: dict[str, Any]) -> None:
    del document["cost"], document["about"]


def test_results_of_before_costs_were_measured_are_taken(refused, packed, run, home, tmp_path: Path) -> None:
    old = signed(edited(packed, run, _without_added_fields))
    assert add_bundle(zipped(tmp_path, old), home).added == (run,)
    assert isinstance(load_results(home)[0], Result)


# Speeds


def make_speed(**changes: Any) -> Speed:
    facts = {
        "kind": "backbone", "name": "toy", "weights": "untrained", "input": "images 32x32", "batch": 8,
        "seconds": (0.5, 0.25, 0.125), "reference_seconds": 1.0, "reference": "imagenet", "peak_memory_bytes": 10,
        "memory": "resident", "parameters": 5, "device": "CPU, 2 threads of 2", "precision": "fp32", "threads": 2,
        "date": "2026-01-01T00:00:00+00:00", "versions": {"torch": "2.9.0"},
    }  # fmt: skip
    return Speed(**{**facts, **changes})


@pytest.fixture
def with_speeds(sender: LocalLocation) -> Iterator[list[str]]:
    """Keys of three speeds that belong to the sender's runs; beside them lie some that do not."""
    fitting = [make_speed(), make_speed(device="a GPU"), make_speed(kind="readout", name="deap", input="features")]
    others = [make_speed(name="imagenet", reference_seconds=0.25), make_speed(name="toy-large")]
    keys = [write_speed(sender, one) for one in (*fitting, *others)]
    yield keys[:3]
    for key in keys:
        sender.delete(key)


def test_speeds_of_the_backbones_and_readouts_of_the_runs_go_along(
    sender, run, with_speeds, home, tmp_path: Path
) -> None:
    done = pack_bundle(sender, [run])
    assert sorted(done.speeds) == sorted(with_speeds)
    path = tmp_path / "bundle.zip"
    path.write_bytes(done.data)
    mine = write_speed(home, make_speed(seconds=(2.0, 2.0)))
    assert mine == with_speeds[0]
    kept = home.read(mine)
    report = add_bundle(path, home)
    assert (set(report.speeds), report.kept) == (set(with_speeds[1:]), (mine,))
    assert home.read(mine) == kept
    assert all(home.read(key) == sender.read(key) for key in with_speeds[1:])
    again = add_bundle(path, home)
    assert (again.speeds, again.kept) == ((), (mine,))


LIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "rate": (lambda d: d["images_per_second"].update(median=900.0), "its images_per_second does not follow"),
    "ratio": (lambda d: d.update(relative=5.0), "its relative does not follow"),
    "batches": (lambda d: d.update(batches=10), "its batches does not follow"),
    "time": (lambda d: d.update(seconds=[0.5, -1.0, 0.1]), "seconds.1: input should be greater than 0"),
    "no time": (lambda d: d.update(seconds=[]), "is no speed of deapcache"),
    "table": (lambda d: d.update(seconds={"a": 1}), "is no speed of deapcache"),
    "infinite": (lambda d: d.update(runtime_factor=1e-320), "no"),
    "device": (lambda d: d.update(device="another"), "its name is not the one that its contents have"),
    "another's": (lambda d: d.update(backbone="dinov2"), "its name is not the one"),
    "reference": (lambda d: d.update(reference="dinov2"), "'dinov2' is no ViT-B/16 at 224"),
    "no backbone": (lambda d: d.update(reference="none-such"), "unknown backbone 'none-such'"),
    "long text": (lambda d: d.update(input="x" * 400), "input: string should have at most 300 characters"),
    "text": (lambda d: d.update(weights="<b>"), "weights: input should be 'trained', "),
    "number": (lambda d: d.update(threads="2"), "threads: input should be a valid integer"),
    "a field more": (lambda d: d.update(html="<b>"), "it has other fields"),
    "a field less": (lambda d: d.pop("memory"), "memory: field required"),
    "schema": (lambda d: d.update(schema=2), "its schema is 2, this deapcache reads 1"),
    "date": (lambda d: d.update(date="yesterday"), "ValueError"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_speed_that_does_not_follow_from_its_contents_is_refused(refused, packed, lie: str) -> None:
    change, expected = LIES[lie]
    document = make_speed().to_json()
    change(document)
    key = speed_key(make_speed())
    why = refused({**packed, key: json.dumps(document).encode()})
    assert key in why
    assert expected in why


def test_a_speed_of_what_there_is_no_run_of_and_one_that_is_none_are_refused(refused, packed) -> None:
    other = make_speed(name="dinov2")
    data = json.dumps(other.to_json()).encode()
    assert "'dinov2', of which there is no run here" in refused({**packed, speed_key(other): data})
    assert "no speed of deapcache" in refused({**packed, speed_key(other): b"[1]"})
    assert "at most 64,000 are taken" in refused({**packed, speed_key(other): bytes(64_001)})
    itself = make_speed(name="imagenet", reference_seconds=0.25)
    data = json.dumps(itself.to_json()).encode()
    assert "of which there is no run here" in refused({**packed, speed_key(itself): data})


@pytest.mark.parametrize(
    "names", [["__MACOSX/._manifest.json", "__MACOSX/results/._x.json"], [".DS_Store", "results/.DS_Store", "._x"]]
)
def test_a_bundle_that_a_mac_packed_again_is_taken(packed, run, home, tmp_path: Path, names: list[str]) -> None:
    path = zipped(tmp_path, {**packed, **dict.fromkeys(names, b"\0\5\26\7")})
    assert add_bundle(path, home).added == (run,)
    assert not [key for key in home.keys("") if "/." in key or "MACOSX" in key]


@pytest.mark.parametrize("change", [{"higher_is_better": False}, {"label": "\x1b[31m"}, {"label": 3}, {"html": "<b>"}])
def test_what_a_bundle_says_of_a_known_metric_is_refused(refused, packed, run, change: dict[str, Any]) -> None:
    why = refused(edited(packed, run, lambda d: d["metrics"]["mean_iou"].update(change)))
    assert f"run {run}: " in why
    assert "\x1b" not in why


WRONG: dict[str, Any] = {
    "cost": ["x", [1], {"a": "x"}, {"a": True}, None],
    "build": [None, [], "x", {}],
    "sigma": [3, "x", ["x"], {}],
    "loss_curve": [1, [1], [[1, 2, 3]], [["a", 1]], None],
    "seconds": [[1], {"train": "x"}, None],
    "versions": [["x"], {"torch": 2}, {"torch": "\x1b[31m"}, None],
    "caches": [[], {}, {"train": 1}, None],
    "classes": ["abc", [1], None],
    "about": [[1], {"category": 3}],
    "command": ["x", [1], None],
    "device": [None, 3, "\x1b]0;x\x07"],
}


@pytest.mark.parametrize(("field", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_field_of_another_type_is_refused(refused, packed, run, field: str, value: Any) -> None:
    why = refused(edited(packed, run, lambda d: d.update({field: value})))
    assert f"run {run}: " in why
    assert "\x1b" not in why
