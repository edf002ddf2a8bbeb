"""Every figure from a home of real, short runs: nothing overlaps, and it shows the numbers of the files."""

from __future__ import annotations

import io
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from deapcache_figures import (
    BACKBONES,
    READOUTS,
    SEEDS,
    TASKS,
    Drawable,
    add_learning_curve,
    build_home,
    collisions,
    marks_of,
    texts_of,
)
from deapcache_results import main_rows
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from PIL import Image
from scipy.stats import pearsonr, spearmanr

from deapcache.cache import find_one
from deapcache.errors import CacheMissError, ResultsError, UsageError
from deapcache.experiments import FigureRequest, make_figure
from deapcache.locations import LocalLocation
from deapcache.results import Selection, load_results
from deapcache.results.figures import FIGURES
from deapcache.results.figures.images import Sample, draw_resolutions
from deapcache.results.figures.style import Canvas
from deapcache.results.painters import principal_colours

NAMES = [entry.name for entry in FIGURES]
Make = Callable[..., Canvas]


@pytest.fixture(scope="module")
def drawable(tmp_path_factory: pytest.TempPathFactory) -> Drawable:
    """The home; nothing here changes it."""
    torch.set_num_threads(1)
    return build_home(tmp_path_factory.mktemp("figures"))


@pytest.fixture
def make(drawable: Drawable, tmp_path: Path) -> Make:
    """A function that makes a figure; each with what it needs besides: a CSV, a run, a learning curve."""

    def made(name: str, **changes: object) -> Canvas:
        request = FigureRequest(name=name, home=drawable.home, images=2)
        if name == "correlations":
            request = replace(request, reference=drawable.reference)
        if name == "label-efficiency":
            home = LocalLocation(shutil.copytree(drawable.home.path, tmp_path / "home"))
            add_learning_curve(home)
            request = replace(request, home=home)
        if name == "resolutions":
            request = replace(request, run=run_of(drawable, "segmentation"))
        return make_figure(replace(request, **changes))

    return made


def run_of(drawable: Drawable, task: str, readout: str = "deap") -> str:
    found = (r for r in load_results(drawable.home) if (r.task, r.readout, r.backbone) == (task, readout, BACKBONES[0]))
    return next(found).run


def labels(canvas: Canvas) -> str:
    return "\n".join(text for text, _ in texts_of(canvas))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_drawn_and_no_text_meets_another_or_leaves_the_sheet(make: Make, name: str) -> None:
    takes_paper = next("paper" in entry.options for entry in FIGURES if entry.name == name)
    canvas = make(name, paper=takes_paper)
    assert collisions(canvas) == []
    with Image.open(io.BytesIO(canvas.save("png"))) as picture:
        assert picture.size[0] == 1540
        assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 20
    root = ET.fromstring(canvas.save("svg"))
    assert (root.tag.rpartition("}")[2], root.get("width")) == ("svg", "504pt")  # 7 inches


@pytest.mark.parametrize("task", TASKS)
def test_each_kind_of_prediction_is_shown_without_overlaps(make: Make, drawable: Drawable, task: str) -> None:
    canvas = make("resolutions", run=run_of(drawable, task), sizes=[(28, 32), (56, 64), (112, 96)])
    assert collisions(canvas) == []
    written = labels(canvas)
    assert "28 × 32 px" in written
    assert "56 × 64 px\n(as trained)" in written


def test_the_same_numbers_give_the_same_bytes(make: Make) -> None:
    wanted = Selection(tasks=["segmentation"], readouts=["deap"])
    for form in ("svg", "pdf"):
        assert make("sigma", selection=wanted).save(form) == make("sigma", selection=wanted).save(form)


def test_pdf_carries_truetype_fonts(make: Make) -> None:
    data = make("sigma", selection=Selection(tasks=["segmentation"])).save("pdf")
    assert data.startswith(b"%PDF")
    assert b"/FontFile2" in data
    assert b"/Type3" not in data


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("instance-awareness", ["relative score [0 to 1]", "backbone"]),
        ("parameters", ["learnable parameters [thousands]", "mIoU ↑", "over seeds"]),
        ("correlations", ["accuracy elsewhere [%] ↑", "our mIoU ↑"]),
        ("speed-quality", ["speed [ViT-B/16 at 224 = 1]", "mIoU ↑", "measured on cpu, 2 cores"]),
        ("sigma", ["learned σ of each attention head [share of the image's longer side]"]),
    ],
)
def test_axes_say_what_they_are_with_units(make: Make, name: str, units: list[str]) -> None:
    canvas = make(name)
    flat = " ".join(labels(canvas).split())
    assert [unit for unit in units if unit not in flat] == []
    for axis in canvas.figure.axes:
        assert axis.get_xlabel() or axis.get_shared_x_axes().get_siblings(axis) != [axis]
        assert axis.get_ylabel() or axis.get_shared_y_axes().get_siblings(axis) != [axis]


def test_instance_awareness_maps_each_tasks_scores_to_zero_and_one(make: Make, drawable: Drawable) -> None:
    canvas = make("instance-awareness", selection=Selection(readouts=["deap"]))
    shown = {axis.get_title("left").partition(",")[0]: axis for axis in canvas.figure.axes}
    means = [s for s in main_rows(load_results(drawable.home)) if s.readout == "deap" and s.task == "discrimination"]
    scores = np.array([s.mean for s in means])
    expected = np.sort((scores - scores.min()) / np.ptp(scores))
    np.testing.assert_allclose(marks_of(shown["discrimination"])[:, 0], expected, atol=1e-12)
    assert (expected[0], expected[-1]) == (0, 1)


def test_the_papers_scores_are_marked_hollow_and_are_its_own(make: Make) -> None:
    canvas = make("instance-awareness", paper=True)
    axis = next(axis for axis in canvas.figure.axes if "discrimination, the paper" in axis.get_title("left"))
    points = marks_of(axis)
    assert len(points) == 18
    # Table 3: random 23.5, SAM 2 50.0, DINOv2 46.8
    assert np.isclose(points[:, 0], (46.8 - 23.5) / (50.0 - 23.5)).sum() == 1
    assert {line.get_markerfacecolor() for line in axis.lines if line.get_marker() in "os^D"} == {"white"}
    assert "hollow: the paper's number" in labels(canvas)


def test_parameters_shows_sizes_and_means(make: Make, drawable: Drawable) -> None:
    canvas = make("parameters", selection=Selection(tasks=["segmentation"], backbones=[BACKBONES[0]]))
    (axis,) = canvas.figure.axes
    rows = main_rows(load_results(drawable.home))
    rows = [s for s in rows if (s.task, s.backbone) == ("segmentation", BACKBONES[0])]
    expected = sorted([s.parameters / 1000, s.mean] for s in rows)
    np.testing.assert_allclose(marks_of(axis), expected)
    assert set(READOUTS) <= set(labels(canvas).splitlines())
    assert "over seeds" in labels(canvas)


def test_sigma_shows_every_head_of_every_seed(make: Make, drawable: Drawable) -> None:
    canvas = make("sigma", selection=Selection(tasks=["segmentation"], readouts=["deap"]))
    (axis,) = canvas.figure.axes
    found = [r for r in load_results(drawable.home) if (r.task, r.readout) == ("segmentation", "deap")]
    assert len(found) == len(BACKBONES) * len(SEEDS)
    np.testing.assert_allclose(
        np.sort(marks_of(axis)[:, 0]), np.sort([sigma for result in found for sigma in result.sigma])
    )


def test_correlations_say_what_scipy_says(make: Make, drawable: Drawable) -> None:
    canvas = make("correlations", selection=Selection(tasks=["segmentation"], readouts=["deap"]))
    (axis,) = canvas.figure.axes
    means = {s.backbone: s.mean for s in main_rows(load_results(drawable.home))
             if (s.task, s.readout) == ("segmentation", "deap")}  # fmt: skip
    x, y = [40 + 3 * place for place in range(len(BACKBONES))], [means[name] for name in BACKBONES]
    np.testing.assert_allclose(marks_of(axis), sorted(zip(x, y, strict=True)))
    low, high = pearsonr(x, y).confidence_interval()
    written = labels(canvas)
    assert f"r = {pearsonr(x, y).statistic:+.2f} [{low:+.2f}, {high:+.2f}]" in written
    assert f"ρ = {spearmanr(x, y).statistic:+.2f}" in written
    assert "Fisher's z" in written


def test_speed_quality_draws_the_front_of_what_nothing_beats(make: Make, drawable: Drawable) -> None:
    canvas = make("speed-quality", selection=Selection(tasks=["segmentation"], readouts=["deap"]))
    (axis,) = canvas.figure.axes
    points = marks_of(axis)
    np.testing.assert_allclose(points[:, 0], [1, 3, 9, 27])
    front = next(np.column_stack(line.get_data()) for line in axis.lines if line.get_linestyle() == "--")
    beaten = [any((other >= point).all() and (other > point).any() for other in points) for point in points]
    np.testing.assert_allclose(front, points[~np.array(beaten)])


def test_cached_images_are_asked_as_photographs_are(make: Make, drawable: Drawable) -> None:
    sizes = [(28, 32), (56, 64)]
    cached = make("resolutions", sizes=sizes, images=1)
    photograph = make("resolutions", sizes=sizes, files=[drawable.dataset.path("val", 0)])
    assert "val-0" in labels(cached)
    for found, wanted in zip(cached.figure.axes[1:], photograph.figure.axes[1:], strict=True):
        ((one,), (other,)) = found.images, wanted.images
        assert (one.get_array() == other.get_array()).mean() > 0.99


def test_boxes_of_all_images_have_the_colours_of_one_scale(drawable: Drawable) -> None:
    result = load_results(drawable.home, [run_of(drawable, "detection")])[0]
    boxes = [np.array([[0.2, 0.2, 0.5, 0.5, score]]) for score in (0.1, 0.8)]
    image = np.zeros((56, 64, 3), np.uint8)
    canvas = draw_resolutions(result, [(56, 64)], [Sample(str(one), image, [one]) for one in boxes])
    edges = [axis.patches[0].get_edgecolor() for axis in canvas.figure.axes if axis.patches]
    scale = ScalarMappable(Normalize(0, 0.8), "plasma")
    np.testing.assert_allclose(edges, [scale.to_rgba(0.1), scale.to_rgba(0.8)], atol=0.01)


def test_photographs_are_shown_by_their_names(make: Make, drawable: Drawable) -> None:
    canvas = make("resolutions", files=[drawable.dataset.path("val", 1)], sizes=[(56, 64)])
    assert "photo-1.png" in labels(canvas)
    assert collisions(canvas) == []


def test_features_are_the_principal_components_of_the_cache(make: Make, drawable: Drawable) -> None:
    canvas = make("features", selection=Selection(backbones=[BACKBONES[0]]))
    entry = find_one(drawable.home, "features", dataset="photographs", split="val", name=BACKBONES[0])
    volumes = entry.open().read_features([0, 1]).astype(np.float32)
    expected, _ = principal_colours(list(volumes))
    shown = [axis.images[0].get_array() for axis in canvas.figure.axes]
    assert len(shown) == 4  # two images, each with its features
    for found, wanted in zip((shown[1], shown[3]), expected, strict=True):
        np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-6)
    assert shown[0].shape == (56, 64, 3)


@pytest.mark.parametrize(
    ("name", "error", "command"),
    [
        ("instance-awareness", ResultsError, "deapcache probe --task discrimination"),
        ("parameters", ResultsError, "deapcache probe --task segmentation --readout deap"),
        ("resolutions", ResultsError, "deapcache probe --task segmentation"),
        ("correlations", ResultsError, "deapcache probe"),
        ("speed-quality", ResultsError, "deapcache speed --backbone"),
        ("sigma", ResultsError, "deapcache probe --task segmentation"),
        ("features", CacheMissError, "deapcache extract --dataset"),
    ],
)
def test_an_empty_home_is_told_the_command(home: LocalLocation, name: str, error: type, command: str) -> None:
    with pytest.raises(error, match=command):
        make_figure(FigureRequest(name=name, home=home))


def test_too_little_is_told_with_what_there_is(make: Make, drawable: Drawable) -> None:
    with pytest.raises(ResultsError, match=r"share 0 .*--reference"):
        make("correlations", reference=None)
    with pytest.raises(ResultsError, match="no backbone here has results of two"):
        make("parameters", selection=Selection(readouts=["deap"]))
    with pytest.raises(UsageError, match="say which with --run"):
        make("resolutions", run=None)
    with pytest.raises(ResultsError, match=r"speeds on 'tpu': there are cpu, 2 cores"):
        make("speed-quality", speed_device="tpu")
    with pytest.raises(CacheMissError, match="no features of dinov2"):
        make("features", selection=Selection(backbones=["dinov2"]))
    with pytest.raises(ResultsError, match=r"learning rate 0.5: there are 0.01"):
        make("sigma", rates=[0.5])
