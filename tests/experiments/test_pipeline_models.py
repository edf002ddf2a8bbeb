"""Pipelines say of a backbone which weights, at which size, which layers, and what it is called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from deapcache_pipelines import Counted
from matplotlib.text import Text

from deapcache.backbones import build, describe
from deapcache.cache import find_caches
from deapcache.errors import PipelineError
from deapcache.experiments import FigureRequest, load_pipeline, make_figure, run_pipeline
from deapcache.experiments.plan import plan_grid
from deapcache.locations import LocalLocation
from deapcache.results.bundle import add_bundle, pack_bundle
from deapcache.results.leaderboard import collect, leaderboard
from deapcache.results.leaderboard.reproduce import reproduce_commands

MODELS = """\
backbones:
  - timm:test_vit@untrained
  - {model: timm:test_vit, weights: ep100.pth, name: mine-ep100, image_size: 112}
  - {model: timm:test_vit, weights: ep200.pth, weights_key: student., layers: [2, 6], tokens: cls}
iterations: 2
batch_size: 4
lr: 0.001
probes: [{tasks: [foreground], dataset: coco}]
"""


@pytest.fixture
def checkpoints(tmp_path, monkeypatch) -> Path:
    """Two checkpoints of one architecture in the working directory."""
    monkeypatch.chdir(tmp_path)
    for seed, (file, key) in enumerate({"ep100.pth": "teacher.backbone.", "ep200.pth": "student."}.items()):
        torch.manual_seed(seed)
        state = timm.create_model("test_vit", num_classes=0).state_dict()
        torch.save({key + name: tensor for name, tensor in state.items()}, file)
    return tmp_path


def test_checkpoints_of_one_architecture_are_rows_of_their_own(checkpoints, plan, home):
    planned = plan(MODELS)
    grid = plan_grid([planned])
    rows = {"timm:test_vit@untrained", "mine-ep100@112", "timm:test_vit+ep200"}
    assert {work.backbone for work in grid.features} == {*rows}
    assert planned.runs == planned.missing == 4, "two layers of ep200 are two runs"
    first = Counted(planned)
    assert not first.outcome.failures
    assert (len(first.trained), first.outcome.missing) == (4, 0)
    found = {(one.backbone, one.caches["train"]["recipe"]["layer"]) for one in first.outcome.results}
    assert found == {
        ("timm:test_vit@untrained", "last"),
        ("mine-ep100@112", "last"),
        ("timm:test_vit+ep200", "2"),
        ("timm:test_vit+ep200", "last"),
    }
    (entry,) = find_caches(home, "features", dataset="coco", name="mine-ep100@112", split="val")
    assert (
        entry.recipe["weights"]
        == build("timm:test_vit", weights=Path("ep100.pth"), image_size=(112, 112)).identity.weights
    )
    assert entry.recipe["image_size"] == [112, 112]
    assert {"cls"} == {
        e.recipe["tokens"]
        for e in find_caches(home, "features", dataset="coco", split="val", name="timm:test_vit+ep200")
    }
    second = Counted(plan(MODELS))
    assert (second.forwards, second.steps) == (0, 0)
    assert second.outcome.results == first.outcome.results
    figure = make_figure(FigureRequest(name="features", home=home, images=1)).figure
    texts = {text.get_text().replace("\n", " ") for text in figure.findobj(Text)}
    assert {"mine-ep100@112 7 × 7 × 64", "timm:test_vit+ep200 · layer 2, cls kept 10 × 10 × 64"} <= texts, texts
    bundle, theirs = checkpoints / "mine.zip", LocalLocation(checkpoints / "theirs")
    bundle.write_bytes(pack_bundle(home, sorted(first.trained)).data)
    assert set(add_bundle(bundle, theirs).added) == first.trained
    board = {line.backbone: line for line in leaderboard(collect([home])).lines.itertuples()}
    for name, size in (("mine-ep100@112", 112), ("timm:test_vit+ep200", 160)):
        parameters = describe(f"timm:test_vit@{size}").parameters
        assert (board[name].category, board[name].backbone_parameters) == ("checkpoint", parameters)
    extracting = {one.backbone: reproduce_commands(one)[0] for one in first.outcome.results}
    assert "--backbone timm:test_vit@112 --weights FILE --name mine-ep100 --dataset" in extracting["mine-ep100@112"]
    assert "--backbone timm:test_vit --weights FILE --dataset" in extracting["timm:test_vit+ep200"]


def test_base_size_precision_and_dtype_of_one_model_and_of_all(checkpoints, plan, home):
    own = "image_size: 112, base_size: 64x96, dtype: int8, precision: bf16}"
    text = MODELS.replace("image_size: 112}", own) + "dtype: float32\nbase_size: 96\n"
    planned = plan(text)
    assert planned.terms == {
        "mine-ep100@112": "ep100.pth loads; not used: nothing",
        "timm:test_vit+ep200": "ep200.pth loads; not used: nothing",
    }
    outcome = Counted(planned).outcome
    assert not outcome.failures
    fields = ("base_size", "storage", "precision")
    found = {
        entry.name: tuple(entry.recipe[field] for field in fields)
        for entry in find_caches(home, "features", dataset="coco", split="val")
    }
    assert found == {
        "timm:test_vit@untrained": ("96x96", "float32", "fp32"),
        "mine-ep100@112": ("64x96", "int8", "bf16"),
        "timm:test_vit+ep200": ("96x96", "float32", "fp32"),
    }
    scored = {one.backbone: tuple(one.protocol["output_size"]) for one in outcome.results}
    assert scored == dict.fromkeys(found, (96, 96)) | {"mine-ep100@112": (64, 96)}
    second = Counted(plan(text))
    assert (second.forwards, second.steps) == (0, 0)


def test_a_name_that_other_weights_have_is_refused_before_anything_is_made(checkpoints, plan):
    alone = "\n".join(line for line in MODELS.splitlines() if "untrained" not in line and "ep200" not in line)
    Counted(plan(alone))
    other = alone.replace("weights: ep100.pth", "weights_key: student., weights: ep200.pth")
    with pytest.raises(PipelineError, match=r"the name mine-ep100@112 is taken"):
        run_pipeline(plan(other))
    again = plan(alone.replace("name: mine-ep100", "name: mine-b"))
    (problem,) = again.problems
    assert problem.startswith("backbone mine-b@112: its features are there under the name mine-ep100@112")


def test_a_checkpoint_that_does_not_fit_is_a_problem_of_the_plan(checkpoints, plan):
    (problem,) = plan(MODELS.replace("weights_key: student.", "weights_key: nothing.")).problems
    assert problem.startswith("backbone timm:test_vit+ep200: ")
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("ep100.pth", "ep1.pth", r"line 3: backbones\.1\.weights: there is no file ep1\.pth"),
        ("image_size: 112", "image_size: 0", r"line 3: backbones\.1\.image_size: image size '0'"),
        ("image_size: 112", "image_size: 113", r"line 3: backbones\.1\.image_size: .* cannot take images of 113x113"),
        ("image_size", "size", r"line 3: backbones\.1\.size: unknown key 'size': .*known here: model, weights, "),
        ("weights: ep100.pth, ", "", r"line 3: backbones\.1\.name: is for a checkpoint: say which with `weights`"),
        ("mine-ep100", "dinov2", r"line 3: backbones\.1\.name: .*is a backbone's own"),
        ("mine-ep100", "a/b", r"line 3: backbones\.1\.name: .*letters, digits"),
        ("[2, 6]", "[2, 60]", r"line 4: backbones\.2\.layers: .* no layer 60"),
        ("tokens: cls", "base_size: x", r"line 4: backbones\.2\.base_size: base size 'x': expected a side"),
        ("tokens: cls", "dtype: half", r"line 4: backbones\.2\.dtype: expected one of float16, .*found 'half'"),
        ("lr: 0.001", "dtype: int8\nstorage: int8", r"line 7: dtype: is the same as `storage`, which is given too"),
        ("tokens: cls", "tokens: all", r"line 4: backbones\.2\.tokens: expected one of none, cls, found 'all'"),
        ("{model: timm:test_vit, weights: ep100", "{weights: ep100", r"line 3: backbones\.1: model is missing"),
        ("timm:test_vit@untrained", "timm:test_vi@untrained", r"line 2: backbones\.0: "),
        ("timm:test_vit@untrained", "3", r"line 2: backbones\.0: expected text, found 3"),
        (
            "weights: ep200.pth, weights_key: student.",
            "image_size: 112, weights: ep200.pth, name: mine-ep100",
            r"line 4: backbones\.2: 'mine-ep100@112' is the name of another entry already",
        ),
        (
            "dataset: coco}",
            "dataset: coco}, {tasks: [boundaries], dataset: coco, "
            "backbones: [{model: timm:test_vit, weights: ep200.pth, name: mine-ep100, image_size: 112}]}",
            r"line 8: probes\.1\.backbones\.0: 'mine-ep100@112' is the name of another entry already",
        ),
    ],
)
def test_a_wrong_entry_is_one_line_with_file_line_and_key(old, new, says, checkpoints, write):
    assert old in MODELS
    with pytest.raises(PipelineError) as caught:
        load_pipeline(write(MODELS.replace(old, new, 1)))
    assert re.search(says, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_joined_readout_reads_the_layers_of_its_probe(checkpoints, plan):
    text = MODELS.replace("  - timm:test_vit@untrained\n", "").replace("coco}", "coco, layers: [4, last]}")
    outcome = Counted(plan(text)).outcome
    assert not outcome.failures
    assert {one.backbone for one in outcome.results} == {"mine-ep100@112", "timm:test_vit+ep200"}
