"""Whatever the names are that stand on a picture, it is drawn, and they stand there."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from deapcache_results import make_facts
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from deapcache.results.draw import Page, draw_prediction, save_picture
from deapcache.results.figures.labels import Label
from deapcache.results.figures.style import Canvas, name_axes
from deapcache.results.fonts import drawable, shortened, write_literally
from deapcache.results.painters import make_painter
from deapcache.results.record import make_result

ODD = (
    "$x_{$", "$", "$$", "a$b$c", r"$\frac{1$", r"\$5", "_background_", "_", "x^2", "100%", "{x}", "a & b", "<b>", "#1",
    "Straße", "дерево", "δέντρο", "שלום", "木", "🐻", "\x1b[31mred", "tab\there", "\x00", "\udcff", "\u202ecba", "-",
    " ",
)  # fmt: skip
"""Names that matplotlib reads as mathematics, leaves out of legends, or has no glyphs for."""


@pytest.fixture(autouse=True)
def no_warnings():
    """Neither of a label that is left out nor of a glyph that is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _texts(figure) -> list[str]:
    write_literally(figure)
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("name", ODD)
def test_a_picture_of_any_class_image_and_backbone(home, name) -> None:
    kept = "odd" if name == "\udcff" else name  # recipes are UTF-8
    facts = make_facts(task="segmentation", backbone=f"timm:{kept}", dataset=f"folder:{kept}", classes=("void", name))
    maps = np.ones((2, 8, 12), np.int16)
    images = np.zeros((2, 8, 12, 3), np.uint8)
    result = make_result(facts)
    key = save_picture(home, result, images=images, targets=maps, predictions=maps, image_ids=(name, "photo"))
    assert Image.open(io.BytesIO(home.read(key))).format == "PNG"
    assert draw_prediction(result, f"{name}.jpg", images[0], [maps[0]], [(8, 12)]).startswith(b"\x89PNG")


def test_a_legend_has_every_name() -> None:
    painter = make_painter("probability", [np.zeros((2, 2))])
    painter.legend = dict.fromkeys(ODD, "#000000")
    page = Page(4, 9, ODD)
    page.place_legend(0, painter)
    page.figure.png()
    assert set(map(drawable, ODD)) >= {"$x_{$", "_background_", "木" if drawable("木") == "木" else "\\u6728"}
    missing = {shortened(name, 20) for name in ODD} - set(_texts(page.figure))
    assert not missing


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_a_figure_has_every_name_on_axes_ticks_points_legends_and_notes(form) -> None:
    canvas = Canvas(6.0)
    ((axis,),) = canvas.panels(1, 1)
    name_axes(axis, title="$x_{$ over _", x="µ [$]", y="{$")
    axis.set_yticks(range(len(ODD)), ODD)
    axis.plot([0, 1], [0, 1])
    canvas.label(axis, [Label(0.5, 0.5, "$x_{$"), Label(0.2, 0.7, "_木")])
    canvas.legend([Line2D([], [], label=name) for name in ("$x_{$", "_background_")])
    canvas.note("of $x_{$ and 木 and \x1b[1m")
    assert canvas.save(form)
    shown = _texts(canvas.figure)
    assert {"$x_{$", "_background_", drawable("_木"), "µ [$]", *map(drawable, ODD)} <= set(shown)
    assert any(r"of $x_{$ and" in text and r"\x1b[1m" in text for text in shown)


def test_what_no_font_has_is_its_code() -> None:
    assert drawable("Ж $a$ \U0010fffd\udc80\x07") == r"Ж $a$ \U0010fffd\udc80\x07"
    assert drawable("two\nlines") == "two\nlines"
    assert shortened("a_name_without_any_space", 10) == "a_name_wi…"


@pytest.mark.parametrize(
    ("task", "targets", "predictions"),
    [
        ("depth", np.zeros((6, 8, 12), np.float32), np.ones((6, 8, 12), np.float32)),
        ("depth", np.full((1, 8, 12), 2, np.float32), np.full((1, 8, 12), 2, np.float32)),
        ("segmentation", np.full((2, 8, 12), 255, np.int16), np.zeros((2, 8, 12), np.int16)),
        ("segmentation", np.full((2, 8, 12), 255, np.int16), np.full((2, 8, 12), 255, np.int16)),
        ("boundaries", np.full((2, 8, 12), 255, np.uint8), np.zeros((2, 8, 12), np.float32)),
        ("discrimination", np.zeros((2, 8, 12), np.int32), np.zeros((2, 8, 12), np.int32)),
        ("discrimination", np.full((2, 8, 12), -1, np.int32), np.zeros((2, 8, 12), np.int32)),
        ("detection", np.zeros((2, 3, 5), np.float32), np.zeros((2, 4, 5), np.float32)),
        ("detection", np.zeros((2, 0, 5), np.float32), np.zeros((2, 0, 5), np.float32)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("with_images", [True, False])
def test_a_picture_of_nothing_that_is_known(home, task, targets, predictions, with_images) -> None:
    images = np.zeros((len(targets), 16, 24, 3), np.uint8) if with_images else None
    result = make_result(make_facts(task=task, classes=("a", "b") if task == "segmentation" else ()))
    key = save_picture(home, result, images=images, targets=targets, predictions=predictions)
    assert home.read(key).startswith(b"\x89PNG")
