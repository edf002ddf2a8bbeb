"""Features under a name: of a checkpoint, at another image size; and what of the image their cells cover."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from deapcache_plugins import forgotten_plugins

import deapcache
from deapcache.backbones import BACKBONES, build, describe, forward_count, register_module
from deapcache.cache import FeatureCache, list_caches, select_folder
from deapcache.cache.progress import Progress, no_progress
from deapcache.cli import main
from deapcache.datasets import open_dataset
from deapcache.errors import MissingWeightsError, UsageError, WeightsError
from deapcache.extraction import ExtractionSettings, extract, extract_command, plan_extraction, recompute_check

VIT = "timm:test_vit"


@pytest.fixture
def checkpoint(tmp_path):
    """A function that writes a checkpoint of random weights of a seed."""

    def write(seed: int, name: str = "ep100.pth") -> Path:
        module = build(f"{VIT}@untrained", seed=seed).module
        torch.save(
            {"teacher": {f"backbone.{key}": tensor for key, tensor in module.state_dict().items()}},
            name := tmp_path / name,
        )
        return name

    return write


class _Patches(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 4, 16, 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.patches(images).permute(0, 2, 3, 1)


@pytest.fixture
def root(make_coco):
    return make_coco(2, 1)


@pytest.fixture
def run(root, home):
    def run(*backbones: str, progress: Progress = no_progress, **settings: object):
        chosen = ExtractionSettings(device="cpu", **settings)  # type: ignore[arg-type]
        dataset = open_dataset("coco", root)
        return list(extract(backbones, dataset, home, splits=["val"], settings=chosen, progress=progress))

    return run


def test_checkpoints_of_one_model_have_names_of_their_own(run, home, checkpoint):
    first, second = checkpoint(1), checkpoint(2, "ep200.pth")
    assert [report.backbone for report in run(VIT, weights=first)] == [f"{VIT}+ep100"]
    assert [report.backbone for report in run(VIT, weights=second, name="mine-ep200")] == ["mine-ep200"]
    assert [report.backbone for report in run(f"{VIT}@96", weights=second, name="mine-ep200")] == ["mine-ep200@96"]
    sizes = [report.backbone for report in run(f"{VIT}@80", f"{VIT}@64", weights=second, name="mine-ep200")]
    assert sizes == ["mine-ep200@80", "mine-ep200@64"], "several sizes of one model"
    caches = {entry.name: entry.open() for entry in list_caches(home, "features") if entry.name not in sizes}
    assert set(caches) == {f"{VIT}+ep100", "mine-ep200", "mine-ep200@96"}
    assert {cache.recipe["backbone"] for cache in caches.values()} == {VIT}
    assert caches["mine-ep200@96"].grid == (6, 6)
    found = deapcache.open_cache(home=home, backbone="mine-ep200", dataset="coco", split="val")
    assert (found.backbone, found.digest) == ("mine-ep200", caches["mine-ep200"].digest)


def test_a_name_is_no_part_of_what_features_are(run, home, root, checkpoint):
    file = checkpoint(1)
    (first,) = run(VIT, weights=file, name="one")
    settings = ExtractionSettings(weights=file, name="two", device="cpu")
    plan = plan_extraction([VIT], open_dataset("coco", root), home, splits=["val"], settings=settings)
    assert plan.forwards == 0, "a dry run knows it, too"
    before, told = forward_count(), []
    for _ in range(2):  # built, and known from before
        (again,) = run(VIT, weights=file, name="two", progress=lambda event: told.append(event.message))
        assert [text for text in told if "are there under the name one: features/coco/val/one-" in text]
        told.clear()
    assert (again.backbone, again.path, again.digest) == ("one", first.path, first.digest)
    assert forward_count() == before


def test_a_name_that_is_taken_or_none_is_one_error(run, home, root, checkpoint):
    first, second = checkpoint(1), checkpoint(2, "other.pth")
    run(VIT, weights=first, name="mine")
    settings = ExtractionSettings(weights=second, name="mine", device="cpu")
    with pytest.raises(UsageError, match=r"the name mine is taken: "):
        plan_extraction([VIT], open_dataset("coco", root), home, splits=["val"], settings=settings)
    with pytest.raises(UsageError, match=r"the name mine is taken: features/coco/val/mine-.* give another --name$"):
        run(VIT, weights=second, name="mine")
    with pytest.raises(UsageError, match="--name 'dinov2' is a backbone's own; give a name"):
        run(VIT, weights=first, name="dinov2")
    with pytest.raises(UsageError, match=r"--name 'a/b' is no name: it takes letters, digits"):
        run(VIT, weights=first, name="a/b")
    with pytest.raises(UsageError, match="--name and --weights-key are for a checkpoint"):
        run(VIT, name="mine")
    with forgotten_plugins():
        register_module(_Patches(), "mine", image_size=32)
        with pytest.raises(UsageError, match=r"the name mine is taken: .* and these are of plugin:mine"):
            run("mine")
    settings = replace(settings, name="")
    with pytest.raises(UsageError, match=r"of one backbone, and these are timm:test_vit, timm:test_vit2: give one$"):
        plan_extraction([VIT, "timm:test_vit2"], open_dataset("coco", root), home, settings=settings)
    with pytest.raises(MissingWeightsError, match="is a folder: give the file in it"):
        run(VIT, weights=first.parent)


def test_features_of_a_name_are_made_again(run, home, checkpoint):
    file = checkpoint(1)
    run(f"{VIT}@96", weights=file, name="mine")
    (entry,) = list_caches(home, "features")
    cache = entry.open()
    assert isinstance(cache, FeatureCache)
    assert not recompute_check(cache, home, images=1, weights=file, device="cpu").bad
    assert f"--backbone {VIT}@96 " in extract_command(select_folder(home, "mine"))
    assert " --weights FILE --name mine " in extract_command(select_folder(home, "mine"))


def test_the_weights_of_another_key_are_found_again(run, home, tmp_path):
    """What ``--weights-key`` chose, the recipe's digest chooses."""
    states = {
        key: build(f"{VIT}@untrained", seed=seed).module.state_dict() for seed, key in enumerate(("teacher", "student"))
    }
    file = tmp_path / "both.pth"
    torch.save(
        {key: {f"backbone.{name}": tensor for name, tensor in state.items()} for key, state in states.items()}, file
    )
    run(VIT, weights=file, weights_key="student.backbone.", name="student")
    (entry,) = list_caches(home, "features")
    assert entry.recipe["weights"] != build(VIT, weights=file).identity.weights
    cache = entry.open()
    assert isinstance(cache, FeatureCache)
    assert not recompute_check(cache, home, images=1, weights=file, device="cpu").bad
    torch.save({"teacher": states["teacher"]}, file)
    with pytest.raises(WeightsError, match="is not the one that the features are from"):
        recompute_check(cache, home, images=1, weights=file, device="cpu")


def test_a_dry_run_says_what_of_a_checkpoint_loads(make_coco, home, checkpoint):
    dataset, file = open_dataset("coco", make_coco(2, 1)), checkpoint(1)
    settings = ExtractionSettings(weights=file, device="cpu")
    plan = plan_extraction([VIT], dataset, home, settings=settings)
    assert "ep100.pth loads into timm:test_vit: 78 tensors" in plan.weights
    assert plan.weights.endswith("not used: nothing; the features are called timm:test_vit+ep100")
    assert {cache.name for cache in plan.caches if cache.kind == "features"} == {"timm:test_vit+ep100"}


def test_cells_that_do_not_cover_the_image(run, home, monkeypatch, capsys):
    """Of a size that is no multiple of the patch, which only a model's own size can be."""
    odd = replace(
        describe("timm:vit_tiny_patch16_224@untrained"),
        name="odd",
        arguments={"img_size": [100, 112], "depth": 1},
        image_size=(100, 112),
        grid=(6, 7),
        covered=(0.96, 1.0),
    )
    monkeypatch.setitem(BACKBONES._entries, "odd", odd)
    (report,) = run("odd")
    cache = deapcache.open_cache(report.path)
    assert cache.covered == (0.96, 1.0)
    assert "covers    96 × 112 of them, from the upper left" in repr(cache)
    with pytest.raises(SystemExit, match="0"):
        main(["cache", "info", report.digest[:12], "--home", str(home.path)])
    assert "96.00% of the height, 100.00% of the width" in capsys.readouterr().out
    root = Path(report.path) / "zarr.json"
    document = json.loads(root.read_text())
    assert document["attributes"]["deapcache"].pop("covered") == [0.96, 1.0]
    root.write_text(json.dumps(document, indent=2))  # as of a cache that was made before
    assert deapcache.open_cache(report.path).covered == (0.96, 1.0)
    (plain,) = run(f"{VIT}@untrained")
    assert deapcache.open_cache(plain.path).covered == (1.0, 1.0)
    assert "covered" not in (Path(plain.path) / "zarr.json").read_text()
