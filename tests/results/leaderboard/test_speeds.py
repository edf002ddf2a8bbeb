"""Speeds beside scores: of one device at a time, and what is shown where there are none."""

from __future__ import annotations

import csv
import io

import pytest
from deapcache_browser import chromium, complaints
from deapcache_results import make_facts

from deapcache.errors import ResultsError
from deapcache.locations import LocalLocation
from deapcache.results import save_run
from deapcache.results.leaderboard import collect, leaderboard, rendered
from deapcache.results.speeds import Speed, write_speed

CPU, GPU = "A <b>processor</b>, 2 threads of 2", "A GPU"


def add(home, name, factor, device):
    speed = Speed(
        kind="backbone", name=name, weights="trained", input="images 224x224", batch=8, seconds=(factor,) * 3,
        reference_seconds=1.0, reference="imagenet", peak_memory_bytes=1, memory="resident", parameters=1,
        device=device, precision="fp32", threads=2, date="2026-01-01T00:00:00+00:00", versions={},
    )  # fmt: skip
    write_speed(home, speed)


@pytest.fixture
def probed(home, arrays):
    """A home with results of two backbones and a control."""
    for backbone in ("mae", "dino", "mae@untrained"):
        save_run(home, make_facts(backbone=backbone), **arrays)
    return home


def rows(board):
    return {row["backbone"]: row for row in csv.DictReader(io.StringIO(rendered(board, "csv"))) if row["task"]}


def board(home, **choices):
    return leaderboard(collect([home]), intervals=False, paper=False, **choices)


def test_without_speeds_there_is_a_dash_and_the_command(probed):
    for format in ("table", "html", "markdown"):
        assert "deapcache speed --backbone NAME" in rendered(board(probed), format)
    assert {row["speed_relative"] for row in rows(board(probed)).values()} == {""}


def test_speeds_of_the_device_with_most_backbones_which_is_named(probed):
    for name, factor, device in (("mae", 3.0, CPU), ("dino", 4.0, CPU), ("mae", 0.3, GPU)):
        add(probed, name, factor, device)
    found = board(probed)
    assert (found.device, found.devices) == (CPU, (CPU, GPU))
    told = rows(found)
    assert [float(told[name]["speed_relative"]) for name in ("mae", "dino", "mae@untrained")] == [1 / 3, 1 / 4, 1 / 3]
    assert float(told["mae"]["speed_images_per_second"]) == pytest.approx(8 / 3)
    assert told["mae"]["speed_device"] == CPU
    text = rendered(found, "table")
    assert f"on {CPU}; 1 more device measured (--device)" in text
    assert " 0.333 " in text
    page = rendered(found, "html")
    assert "A &lt;b&gt;processor&lt;/b&gt;" in page
    assert 'data-speeds="[0.3333333333333333, 3.3333333333333335]"' in page
    assert 'data-speeds="[0.25, null]"' in page


def test_a_device_can_be_chosen_and_must_be_there(probed):
    add(probed, "mae", 3.0, CPU)
    add(probed, "dino", 0.5, GPU)
    told = rows(board(probed, device=GPU))
    assert (told["mae"]["speed_relative"], float(told["dino"]["speed_relative"])) == ("", 2.0)
    with pytest.raises(ResultsError, match="no speeds on 'tpu': devices are A <b>"):
        board(probed, device="tpu")


def test_of_two_homes_the_first_ones_speed_is_shown(probed, arrays, tmp_path):
    (tmp_path / "other").mkdir()
    other = LocalLocation(tmp_path / "other")
    save_run(other, make_facts(backbone="clip"), **arrays)
    add(probed, "mae", 2.0, CPU)
    add(other, "mae", 8.0, CPU)
    add(other, "clip", 4.0, CPU)
    told = rows(leaderboard(collect([probed, other]), intervals=False, paper=False))
    assert {name: row["speed_relative"] for name, row in told.items() if name in ("mae", "clip")} == {
        "mae": "0.5", "clip": "0.25",
    }  # fmt: skip


def test_the_page_shows_the_speeds_of_the_device_that_is_chosen(probed, tmp_path):
    for name, factor, device in (("mae", 3.0, CPU), ("dino", 4.0, CPU), ("dino", 0.5, GPU)):
        add(probed, name, factor, device)
    file = tmp_path / "page.html"
    file.write_text(rendered(board(probed), "html"), encoding="utf-8")
    shown = "return [...document.querySelectorAll('td.speed')].map(e => `${e.textContent}|${e.dataset.v}`).sort()"
    with chromium(tmp_path / "profile") as browser:
        browser.get(file.as_uri())
        third = f"0.333|{1 / 3!r}"
        assert browser.execute_script(shown) == ["0.25|0.25", third, third]
        choice = browser.find_element("css selector", "select[name=device]")
        assert choice.accessible_name == "Speed on"
        choice.find_elements("css selector", "option")[1].click()
        assert browser.execute_script(shown) == ["2|2", "–|", "–|"]
        assert browser.find_element("css selector", "[data-device]").text == GPU
        assert complaints(browser) == []


def test_random_weights_have_the_speed_of_their_model_at_their_size(home, arrays):
    for backbone in ("mae@untrained:1@448", "mae@untrained:2@448", "mae@untrained:1"):
        save_run(home, make_facts(backbone=backbone), **arrays)
    add(home, "mae", 2.0, CPU)
    add(home, "mae@448", 8.0, CPU)
    found = board(home)
    told = {name: float(row["speed_relative"]) for name, row in rows(found).items()}
    assert told == {"mae@untrained:1,2@448": 1 / 8, "mae@untrained:1": 1 / 2}
    assert {row["category"] for row in rows(found).values()} == {"untrained"}
