"""The line that bad input gets, with its exit code: of pipelines and of every command."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from deapcache_golden import FOLDER, Golden, quiet_surroundings, run, shown
from deapcache_golden_data import write_datasets

BACKBONE = "efficientnet-lite0-s16"

GOOD = """\
name: small
description: "two passes"
layout: [plain, table5]
backbones: [dinov2, mae]
readouts: [deap, no-sigma]
seeds: [0, 1]
iterations: 200
lr: [1e-3, 0.0003]
storage: int8
probes:
  - tasks: [depth, segmentation]
    dataset: scenes
  - tasks: [boundaries]
    dataset: coco
    seeds: 7
    batch_size: 8
    limit: 64
"""

PIPELINES = (
    ("seeds: [0, 1]", "seed: [0, 1]"),
    ("    batch_size: 8", "    batchsize: 8"),
    ("seeds: [0, 1]", "seeds: [0, zero]"),
    ("seeds: [0, 1]", "seeds: [0, true]"),
    ("seeds: [0, 1]", "seeds: [0, 0]"),
    ("seeds: [0, 1]", "seeds: []"),
    ("seeds: [0, 1]", "seeds: [0, 1]\nseeds: [2]"),
    ("iterations: 200", "iterations: many"),
    ("iterations: 200", "iterations: 0"),
    ("lr: [1e-3, 0.0003]", "lr: fast"),
    ("lr: [1e-3, 0.0003]", "lr: [.nan]"),
    ("    limit: 64", "    views: [original, vflip]"),
    ("    limit: 64", "    limit: 6.4"),
    ("storage: int8", "storage: int4"),
    ("storage: int8", "fit: letterbox"),
    ("storage: int8", "precision: fp8"),
    ("storage: int8", "where: {weights: [1]}"),
    ("layout: [plain, table5]", "layout: table6"),
    ("[dinov2, mae]", "[dinov, mae]"),
    ("[deap, no-sigma]", "[deap, no-sigmar]"),
    ("[deap, no-sigma]", "[deap:12]"),
    ("[depth, segmentation]", "[dept]"),
    ("    dataset: coco\n", ""),
    ("    dataset: coco", "    dataset: coco\n    choices: {crop: eigen}"),
    ("backbones: [dinov2, mae]\n", ""),
    (GOOD, ""),
    (GOOD, "[1, 2]"),
    (GOOD, "backbones: [mae]\nprobes: []"),
    (GOOD, "x: !!python/object/apply:os.getcwd []"),
)

SETTINGS = (
    *("seeds=zero", "seed=1", "probes.0.limt=1", "probes.7.limit=1", "seeds.0=1", "seeds=", "probes=[]", "seeds"),
    *("probes.0=depth", "backbones=timm:nonsense"),
)

EXTRACT = ("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", "DATA", "--home", "EMPTY")
PROBE = ("probe", "--task", "depth", "--home", "EMPTY", "--device", "cpu")
RESULTS = ("--home", "HOME")

COMMANDS = (
    ("nonsense",),
    ("extract",),
    ("extract", "--backbone", "dinov", "--dataset", "coco", "--data-root", "DATA", "--home", "EMPTY"),
    ("extract", "--backbone", "a,,b", "--dataset", "coco", "--data-root", "DATA", "--home", "EMPTY"),
    ("extract", "--backbone", BACKBONE, "--dataset", "coc", "--home", "EMPTY"),
    ("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", "EMPTY", "--home", "EMPTY"),
    ("extract", "--backbone", BACKBONE, "--dataset", "folder:none", "--data-root", "DATA", "--home", "EMPTY"),
    ("extract", "--backbone", "dinov2,mae", "--dataset", "coco", "--data-root", "DATA", "--weights", "w.pt"),
    *(
        (*EXTRACT, *option)
        for option in (
            ("--split", "test"),
            ("--split", "train,,val"),
            ("--base-size", "big"),
            ("--fit", "letterbox"),
            ("--dtype", "float8"),
            ("--precision", "fp8"),
            ("--views", "vflip"),
            ("--layers", "6"),
            ("--layers", "six"),
            ("--tokens", "all"),
            ("--batch-size", "0"),
            ("--limit", "0"),
            ("--on-error", "ignore"),
            ("--shard", "9/8"),
            ("--weights", "DATA/none.safetensors"),
            ("--plugin", "DATA/none.py"),
        )
    ),
    PROBE,
    ("probe", "--task", "dept", "--home", "EMPTY"),
    *(
        (*PROBE, *option)
        for option in (
            ("--readout", "deep"),
            ("--readout", "deap:7"),
            ("--seed", "zero"),
            ("--lr", "fast"),
            ("--lr", "0"),
            ("--iterations", "0"),
            ("--batch-size", "0"),
            ("--limit", "0"),
            ("--views", "hflip"),
            ("--where", "storage"),
            ("--where", "storage=int8", "--where", "storage=float16"),
            ("--task-option", "crop=eigen"),
            ("--task-option", "depth.crop=round"),
            ("--task-option", "voc.crop=eigen"),
            ("--residency", "disk"),
            ("--backbone", "dinov2"),
        )
    ),
    ("results", *RESULTS, "--task", "dept"),
    ("results", *RESULTS, "--protocol", "ffff"),
    ("results", "--home", "EMPTY"),
    ("leaderboard", "--home", "EMPTY"),
    ("leaderboard", *RESULTS, "--format", "pdf"),
    ("leaderboard", *RESULTS, "--device", "abacus"),
    ("leaderboard", *RESULTS, "--add", "DATA/none.zip"),
    ("submit", "boundaries", *RESULTS, "--out", "EMPTY/bundle"),
    ("submit", "nonsense", *RESULTS, "--out", "EMPTY/bundle.zip"),
    ("submit", "depth", *RESULTS, "--out", "EMPTY/bundle.zip"),
    ("figures",),
    ("figures", "nonsense", "--out", "EMPTY/a.png", *RESULTS),
    ("figures", "speed-quality", "--out", "EMPTY/a.doc", *RESULTS),
    ("figures", "speed-quality", "--out", "EMPTY/a.png", "--size", "56", *RESULTS),
    ("predict", "--readout", "nonsense", "--image", "DATA/none.jpg", "--out", "EMPTY/out", *RESULTS),
    ("predict", "--readout", "depth", "--image", "DATA/none.jpg", "--out", "EMPTY/out", *RESULTS),
    ("plan", "tabel5", "--home", "EMPTY"),
    ("plan", "table5", "--gpus", "0", "--home", "EMPTY"),
    ("plan", "table5", "--rates", "DATA/none.json", "--home", "EMPTY", "--data-root", "DATA"),
    ("run", "nowhere.yaml", "--home", "EMPTY"),
    ("speed", "--backbone", "dinov", "--home", "EMPTY"),
    ("list", "readouts", "--readout", "deap"),
    ("list", "readouts", "--params", "--readout", "deep"),
    ("list", "nonsense"),
    ("cache", "ls", "--home", "EMPTY"),
    ("cache", "ls", "--home", "EMPTY", "--filter", "weather=fine"),
    ("cache", "info", "ffff", "--home", "EMPTY"),
    ("cache", "diff", "a", "b", "--home", "EMPTY"),
    ("cache", "verify", "ffff", "--home", "EMPTY"),
    ("cache", "rm", "ffff", "--home", "EMPTY"),
    ("cache", "prune", "--home", "EMPTY"),
    ("cache", "prune", "--home", "EMPTY", "--older-than", "soon"),
    ("cache", "push", "ffff", "--home", "EMPTY"),
    ("cache", "ls", "--home", "ftp://example"),
    ("doctor", "--dataset", "coc", "--home", "EMPTY"),
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Datasets, a home of results, and an empty home."""
    base = tmp_path_factory.mktemp("golden")
    shutil.copytree(FOLDER / "home", base / "home")
    (base / "empty").mkdir()
    with quiet_surroundings(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        yield {"HOME": base / "home", "EMPTY": base / "empty", "DATA": write_datasets(base / "data"), "HERE": base}


def _filled(word: str, places: dict[str, Path]) -> str:
    name, slash, rest = word.partition("/")
    return f"{places[name]}{slash}{rest}" if name in places else word


def test_of_commands(golden: Golden, places: dict[str, Path]) -> None:
    blocks = []
    for command in COMMANDS:
        done = run(*(_filled(word, places) for word in command))
        said = shown(done.err or done.out, places)
        blocks.append(f"$ deapcache {' '.join(command)}\nexit {done.code}\n{said}")
    golden.text("errors/commands.txt", "\n".join(blocks))


def test_of_pipelines(golden: Golden, places: dict[str, Path]) -> None:
    file, blocks = places["HERE"] / "small.yaml", []
    for old, new in PIPELINES:
        assert old in GOOD
        file.write_text(GOOD.replace(old, new, 1))
        done = run("run", file, "--dry-run", "--home", places["EMPTY"], "--data-root", places["EMPTY"])
        blocks.append(f"{new or f'without {old}'}\nexit {done.code}\n{shown(done.err, places)}")
    file.write_text(GOOD)
    for setting in SETTINGS:
        done = run(
            "run", file, "--dry-run", "--set", setting, "--home", places["EMPTY"], "--data-root", places["EMPTY"]
        )
        blocks.append(f"--set {setting}\nexit {done.code}\n{shown(done.err, places)}")
    golden.text("errors/pipelines.txt", "\n".join(blocks))


def test_of_a_pipeline_without_data(golden: Golden, places: dict[str, Path]) -> None:
    done = run("run", "table4", "--home", places["EMPTY"], "--data-root", places["EMPTY"], "--device", "cpu")
    golden.text("errors/no-data.txt", f"exit {done.code}\n{shown(done.err, places)}")
