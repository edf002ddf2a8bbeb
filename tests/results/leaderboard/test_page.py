"""The page in a browser: made from real runs and the paper's rows, sorted, filtered, opened, by mouse and keyboard."""

from __future__ import annotations

import csv
import io
import json

import pytest
from deapcache_browser import CONTRAST, chromium, complaints, look, requests
from deapcache_results import make_facts

from deapcache.results import load_results, save_run
from deapcache.results.leaderboard import collect, leaderboard, rendered

EVIL = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>\"'&{{data}}"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium with an empty profile."""
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def board(real_home):
    """Of the real runs, and the paper's rows."""
    return leaderboard(collect([real_home]))


@pytest.fixture(scope="module")
def address(board, tmp_path_factory):
    """The page as a file."""
    file = tmp_path_factory.mktemp("page") / "leaderboard.html"
    file.write_text(rendered(board, "html"), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def page(browser, address):
    """The page, loaded anew; after each test it has complained of nothing and asked for nothing but itself."""
    complaints(browser), requests(browser)
    look(browser)
    browser.get("about:blank")
    browser.get(address)
    yield browser
    assert complaints(browser) == []
    assert {url.partition("#")[0] for url in requests(browser)} == {address}


def all_of(page, css):
    return page.find_elements("css selector", css)


def one(page, css):
    return page.find_element("css selector", css)


def table_of(page, title):
    """The table whose heading is ``title``."""
    (found,) = [t for t in all_of(page, "table") if t.accessible_name == title]
    return found


def rows_of(table):
    return [row for row in table.find_elements("css selector", "tbody tr") if row.is_displayed()]


def column(table, label):
    """(button of the column, its texts from top to bottom)."""
    heads = table.find_elements("css selector", "thead th")
    place = next(at for at, head in enumerate(heads) if head.text.startswith(label))
    script = (
        "return [...arguments[0].tBodies[0].rows].filter(r => !r.hidden).map(r => r.children[arguments[1]].dataset.v)"
    )
    return heads[place].find_element("css selector", "button"), table.parent.execute_script(script, table, place)


def test_columns_sort_both_ways_with_the_unknown_last(page, board):
    rows = [row for row in csv.DictReader(io.StringIO(rendered(board, "csv"))) if row["metric"] == "rmse"]
    wanted = sorted(float(row["mean"]) for row in rows if row["source"] == "paper")
    table = table_of(page, "Backbones × tasks: the paper's data")
    button, _ = column(table, "depth")
    button.click()
    up = column(table, "depth")[1]
    assert [float(value) for value in up] == wanted
    assert one(page, "th[aria-sort]").get_attribute("aria-sort") == "ascending"
    button.click()
    assert column(table, "depth")[1] == up[::-1]
    button, _ = column(table, "discrimination")
    for _ in range(2):
        button.click()
        values = column(table, "discrimination")[1]
        known = [value for value in values if value]
        assert 0 < len(known) < len(values)
        assert values == known + [""] * (len(values) - len(known))
    assert len(table.find_elements("css selector", "th[aria-sort]")) == 1
    button, _ = column(table, "Backbone")
    button.click()
    names = column(table, "Backbone")[1]
    assert names[0] == "aimv2"
    assert names[-1] == "vitamin"


def reset(page):
    """Empty the form, and wait: the page filters anew when the browser has done so."""
    one(page, "button[type=reset]").click()
    page.execute_async_script("setTimeout(arguments[0])")


def test_filters_by_category_protocol_text_and_source(page, board):
    everything = one(page, "output").text
    paper = table_of(page, "Backbones × tasks: the paper's data")
    for box in all_of(page, "input[name=category]"):
        if box.get_attribute("value") != "vision-language":
            box.click()
    assert set(column(paper, "Category")[1]) == {"vision-language"}
    reset(page)
    assert one(page, "output").text == everything
    one(page, "input[type=search]").send_keys("dinov2-l")
    assert set(column(paper, "Backbone")[1]) == {"dinov2-l"}
    reset(page)
    one(page, "input[name=paper]").click()
    assert all_of(page, "tr.paper:not([hidden])") == []
    assert not paper.is_displayed()
    one(page, "input[name=paper]").click()
    (foreground,) = set(board.lines["protocol"][board.lines["title"] == "foreground · coco"])
    one(page, f"option[value='{foreground}']").click()
    board = table_of(page, "Backbones × tasks: coco")
    shown = [head for head in board.find_elements("css selector", "th[data-comparison]") if head.is_displayed()]
    assert [head.text.split()[0] for head in shown] == ["foreground"]
    assert len(rows_of(board)) == 2
    assert one(page, "output").text.startswith("2 of ")
    one(page, "input[type=search]").send_keys("no such thing")
    assert one(page, "#nothing").is_displayed()


def test_a_run_opens_with_predictions_sigma_curve_and_command(page, real_home):
    results = {r.run: r for r in load_results(real_home) if r.task == "boundaries" and "untrained" not in r.backbone}
    table = table_of(page, "boundaries · coco")
    (row,) = [row for row in rows_of(table) if "@untrained" not in row.text]
    row.find_element("css selector", "button.open").click()
    panel = one(page, "dialog[open]")
    assert panel.aria_role == "dialog"
    assert panel.accessible_name == "efficientnet-lite0-s16 · deap"
    seeds = all_of(page, "details[data-run]")
    assert {part.get_attribute("data-run") for part in seeds} == set(results)
    assert [part.get_attribute("open") for part in seeds] == ["true", None]
    first = results[seeds[0].get_attribute("data-run")]
    picture = seeds[0].find_element("css selector", "img")
    page.execute_async_script("arguments[0].decode().then(arguments[1])", picture)
    assert page.execute_script("return arguments[0].naturalWidth", picture) > 500
    assert len(seeds[0].find_elements("css selector", "circle.reach")) == len(first.sigma)
    assert f"{first.sigma[0]:.3f}" in seeds[0].find_element("css selector", "svg.heads").accessible_name
    curve = seeds[0].find_element("css selector", "path.curve").get_attribute("d")
    assert curve.count("L") == len(first.loss_curve) - 1
    repeat, recorded = (block.text for block in seeds[0].find_elements("css selector", "pre"))
    assert repeat.startswith("deapcache extract --backbone efficientnet-lite0-s16 --dataset coco")
    assert f"--seed {first.seed} --iterations 6 --batch-size 2 --protocol deapcache-2 --select" in repeat
    assert recorded == "deapcache probe --task boundaries"
    seeds[1].find_element("css selector", "summary").click()
    assert seeds[1].get_attribute("open")
    one(page, "dialog .close").click()
    assert all_of(page, "dialog[open]") == []


def test_an_address_opens_a_run(page, address, real_home):
    (result,) = [r for r in load_results(real_home) if r.task == "boundaries" and r.seed == 1 and "@" not in r.backbone]
    page.get(f"{address}#run-{result.run}")
    opened = [part.get_attribute("data-run") for part in all_of(page, "details[data-run][open]")]
    assert opened == [result.run]
    page.get(f"{address}#run-nonsense%20%3Cb%3E")
    page.refresh()
    assert all_of(page, "dialog[open]") == []


def test_everything_works_by_keyboard(page):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys):
        ActionChains(page).send_keys(*keys).perform()
        return page.switch_to.active_element

    assert press(Keys.TAB).text == "Skip to the tables"
    assert press(Keys.TAB).get_attribute("type") == "search"
    press("mae")
    assert one(page, "output").text != ""
    board = table_of(page, "Backbones × tasks: the paper's data")
    assert set(column(board, "Backbone")[1]) == {"mae"}
    press(*[Keys.BACKSPACE] * 3)
    focused = page.switch_to.active_element
    while focused.tag_name != "button" or not focused.text.startswith("Backbone"):
        focused = press(Keys.TAB)
    head = focused.find_element("xpath", "..")
    press(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "ascending"
    press(Keys.SPACE)
    assert head.get_attribute("aria-sort") == "descending"
    assert page.execute_script("return getComputedStyle(arguments[0]).outlineStyle", focused) == "solid"
    while focused.get_attribute("class") != "open":
        focused = press(Keys.TAB)
    press(Keys.ENTER)
    assert one(page, "dialog[open]").is_displayed()
    for _ in range(12):
        inside = press(Keys.TAB)
        assert page.execute_script("return arguments[0] === document.body || !!arguments[0].closest('dialog')", inside)
    assert press(Keys.ESCAPE) == focused
    assert all_of(page, "dialog[open]") == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read_light_and_dark_and_a_phone_shows_no_page_wider_than_itself(page, dark):
    look(page, dark=dark)
    ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") != dark
    assert page.execute_script(CONTRAST) == []
    look(page, width=390, dark=dark)
    assert page.execute_script("return document.documentElement.scrollWidth") == 390
    page.execute_script("document.querySelector('table.task .open').click()")
    assert page.execute_script(CONTRAST) == []
    panel = one(page, "dialog[open]")
    assert page.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", panel)


def test_everything_that_can_be_chosen_has_a_name(page):
    for element in [*all_of(page, "form *, [role=region], table, thead button"), *all_of(page, ".open")[:3]]:
        if element.tag_name in ("button", "input", "select", "table", "div"):
            assert element.accessible_name, element.get_attribute("outerHTML")


def test_a_strangers_text_is_text(browser, home, arrays, tmp_path):
    facts = make_facts(backbone=EVIL, readout="<b>deap", dataset="<i>coco")
    save_run(home, facts, **arrays, command=[EVIL])
    text = rendered(leaderboard(collect([home]), paper=False), "html")
    assert text.count("<script") == 2
    file = tmp_path / "evil.html"
    file.write_text(text, encoding="utf-8")
    complaints(browser)
    browser.get(file.as_uri())
    browser.execute_script("document.querySelector('table.task .open').click()")
    assert EVIL in one(browser, "#panel-title").text
    assert json.loads(one(browser, "#data").get_attribute("textContent"))
    assert browser.execute_script("return window.pwned") is None
    assert all_of(browser, "img") == []
    assert complaints(browser) == []
