"""Tables, leaderboard and page of a kept home of results, in every layout and format."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from deapcache_golden import FOLDER, Golden, Ran, quiet_surroundings, run, sha256, shown

MIXED = "--allow-mixed"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy, since intervals are kept beside results."""
    with quiet_surroundings():
        yield Path(shutil.copytree(FOLDER / "home", tmp_path_factory.mktemp("golden") / "home"))


def _results(home: Path, *arguments: object) -> Ran:
    done = run("results", "--home", home, *arguments)
    assert (done.code, done.err) == (0, "")
    return done


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("plain.txt", [MIXED]),
        ("plain.md", [MIXED, "--markdown"]),
        ("without-intervals.txt", [MIXED, "--no-intervals"]),
        ("paper.txt", [MIXED, "--paper"]),
        ("paper.md", [MIXED, "--paper", "--markdown"]),
        ("selected.txt", ["--task", "depth,voc", "--backbone", "dinov2", "--readout", "deap,no-sigma"]),
    ],
)
def test_results_as_text(golden: Golden, home: Path, name: str, arguments: list[str]) -> None:
    golden.text(f"results/{name}", shown(_results(home, *arguments).out, {"HOME": home}))


@pytest.mark.parametrize(("name", "arguments"), [("plain.json", [MIXED]), ("paper.json", [MIXED, "--paper"])])
def test_results_as_json(golden: Golden, home: Path, name: str, arguments: list[str]) -> None:
    golden.json(f"results/{name}", _results(home, *arguments, "--json").json, tolerance=1e-9)


def test_what_may_not_stand_together(golden: Golden, home: Path) -> None:
    refused = run("results", "--home", home)
    assert refused.code == 1
    golden.text("results/refused.txt", shown(refused.err, {"HOME": home}))


@pytest.mark.parametrize(("format_", "options"), [("table", []), ("markdown", ["--no-paper"]), ("csv", ["--no-paper"])])
def test_leaderboard(golden: Golden, home: Path, format_: str, options: list[str]) -> None:
    done = run("leaderboard", "--home", home, "--format", format_, *options)
    assert done.code == 0, done.err
    golden.text(f"leaderboard/leaderboard.{format_}", shown(done.out, {"HOME": home}))


def test_leaderboard_without_the_paper_of_another_device(golden: Golden, home: Path) -> None:
    options = ["--no-paper", "--no-intervals", "--device", "8 threads of a CPU"]
    golden.text("leaderboard/ours.txt", shown(run("leaderboard", "--home", home, *options).out))


class _Words(html.parser.HTMLParser):
    """The words of a page, a line for each run of text, and what its data element holds."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.data = ""
        self._inside: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style"):
            self._inside.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            words = " ".join(data.split())
            self.lines += [words] if words else []
        elif self._inside[-1][1].get("id") == "data":
            self.data += data


def test_page(golden: Golden, home: Path) -> None:
    """Words and data; tags, script and style have tests of their own."""
    done = run("leaderboard", "--home", home, "--format", "html")
    page = _Words()
    page.feed(done.out)
    golden.text("leaderboard/page.txt", shown("\n".join(page.lines), {"HOME": home}))
    panels = json.loads(page.data.replace(str(home), "HOME"))
    first_of_paper = next(key for key, panel in panels.items() if not panel["runs"])
    kept = {key: panel for key, panel in panels.items() if panel["runs"] or key == first_of_paper}
    for panel in list(kept.values())[2:]:  # of two panels to the letter
        panel["documents"] = [sha256(json.dumps(document).encode()) for document in panel["documents"]]
    golden.text("leaderboard/panels.txt", "\n".join(f"{key} {panel['title']}" for key, panel in panels.items()))
    golden.json("leaderboard/page.json", kept, tolerance=1e-9)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy"[^>]*content="([^"]*)"', done.out)
    golden.text("leaderboard/policy.txt", re.sub(r"sha256-[^']*", "<digest>", policy).replace("; ", "\n"))


def test_figures(golden: Golden) -> None:
    with quiet_surroundings():
        golden.json("results/figures.json", run("figures", "--list", "--json").json)
