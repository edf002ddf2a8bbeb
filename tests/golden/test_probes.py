"""Results of tiny probes, their readouts and bundles, and the names of the runs that the shipped pipelines train."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from deapcache_golden import EXACT, TOLERANCE, Golden, masked, planned_runs, quiet_surroundings, run
from deapcache_golden_data import write_datasets

THIS_MACHINE = ("seconds", "images_per_second", "cost", "date", "versions", "command", "residency")

PROBES = (
    ("coco", "boundaries,foreground,discrimination,detection", []),
    ("coco-stuff", "coco-stuff", []),
    ("voc", "voc", ["--readout", "deap,linear,bicubic:8"]),
    ("nyuv2", "depth", ["--task-option", "depth.crop=eigen", "--readout", "no-sigma", "--seed", "0,1", "--lr", "3e-4"]),
)

DATASETS = [*(f"probes.{place}.dataset=folder:many" for place in range(4)), "limit=2"]
"""Instead of rendered scenes."""

SETTINGS = {
    "demo": ["backbones=exact", "base_size=224", "probes.3.backbones=exact-b", *DATASETS],
    "table3": ["backbones=exact,exact-b"],
    "table4": ["backbones=exact,exact-b"],
    "table5": ["backbones=exact,exact-b"],
    "figure4": ["backbones=exact", *(f"probes.{place}.backbones=exact-b" for place in (3, 4, 5))],
}
"""Backbones that need no download, instead of the shipped ones."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small datasets in several layouts."""
    return write_datasets(tmp_path_factory.mktemp("golden") / "data")


@pytest.fixture(scope="module")
def home(data: Path) -> Iterator[Path]:
    """Caches as pipelines want them, of two backbones that are one."""
    with quiet_surroundings(EXACT):
        home = data.parent / "home"
        for dataset in ("coco", "coco-stuff", "voc", "nyuv2"):
            _extract(data, home, dataset, "--backbone", "exact,exact-b")
        _extract(data, home, "folder:many", "--backbone", "exact,exact-b", "--limit", 2)
        yield home


def _extract(data: Path, home: Path, dataset: str, *options: object) -> None:
    done = run("extract", "--dataset", dataset, "--data-root", data, "--home", home, "--device", "cpu", *options)
    assert (done.code, done.err) == (0, "")


@pytest.fixture(scope="module")
def probed(data: Path) -> Iterator[Path]:
    """Results of every task on small targets."""
    with quiet_surroundings(EXACT):
        home = data.parent / "probed"
        for dataset, tasks, options in PROBES:
            _extract(data, home, dataset, "--backbone", "exact-56", "--base-size", 56)
            steps = ["--iterations", 3, "--batch-size", 4, "--device", "cpu", "--home", home]
            done = run("probe", "--dataset", dataset, "--task", tasks, *steps, *options)
            assert done.code == 0, done.err
        yield home


def test_results(golden: Golden, probed: Path) -> None:
    """All but what is of this machine; which ones there are says that their names are as they were."""
    files = sorted((probed / "results").glob("*.json"))
    golden.text("probes/files.txt", "\n".join(sorted(_files(probed))))
    for file in files:
        document = masked(json.loads(file.read_text()), THIS_MACHINE)
        if "seed1" in file.name or "-linear-" in file.name:
            document = {key: document[key] for key in ("run", "scores", "protocol_digest", "build", "loss_curve")}
        else:
            document["caches"] = {name: cache["path"] for name, cache in document["caches"].items()}
        golden.json(f"probes/results/{file.name}", document, tolerance=TOLERANCE)


def _files(home: Path) -> Iterator[str]:
    for folder in ("results", "readouts"):
        yield from (str(file.relative_to(home)) for file in (home / folder).rglob("*") if file.is_file())


def test_statistics_and_readouts_have_their_names_and_shapes(golden: Golden, probed: Path) -> None:
    lines = []
    for file in sorted(probed.rglob("*.safetensors")):
        header = _header(file)
        header.pop("__metadata__", None)
        if "seed0" in file.name:
            lines += [str(file.relative_to(probed))]
            lines += [f"  {name} {facts['dtype']} {facts['shape']}" for name, facts in sorted(header.items())]
    golden.text("probes/arrays.txt", "\n".join(lines))


def _header(file: Path) -> dict[str, dict[str, object]]:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    found = json.loads(data[8 : 8 + length])
    assert isinstance(found, dict)
    return found


def test_bundle(golden: Golden, probed: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.zip"
    packed = run("submit", "voc-", "depth-", "boundaries-", "--home", probed, "--out", bundle)
    assert packed.code == 0, packed.err
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
        manifest = json.loads(archive.read("manifest.json"))
    golden.text("probes/bundle.txt", "\n".join(names))
    facts = {name: sorted(file) for name, file in manifest.pop("files").items()}
    golden.json("probes/bundle.json", {**masked(manifest, ["made", "deapcache"]), "files": len(facts)})
    assert sorted(facts) == sorted(set(names) - {"manifest.json"})
    assert {tuple(file) for file in facts.values()} == {("bytes", "sha256")}
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    added = run("leaderboard", "--add", bundle, "--home", theirs, "--no-paper", "--no-intervals")
    assert added.code == 0, added.err
    golden.text("probes/added.txt", added.err.replace(str(bundle), "BUNDLE").replace(str(theirs), "HOME"))


@pytest.mark.parametrize("pipeline", SETTINGS)
def test_runs_of_pipelines(golden: Golden, home: Path, data: Path, pipeline: str) -> None:
    runs = planned_runs(pipeline, SETTINGS[pipeline], home, data)
    golden.text(
        f"pipelines/{pipeline}.txt", "\n".join(sorted(f"{name} {digest[:16]}" for name, digest in runs.items()))
    )
