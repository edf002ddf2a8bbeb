"""The commands and Python examples of the README and the docs run; links and quoted messages exist."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deapcache_plugins import TEMPLATE, forgotten_plugins
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
"""Language and contents, fence by fence: what closes one opens no other."""
ELIDED = "…"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """What stands in the page's fences of that language, '' for none."""
    return [content for found, content in FENCED.findall(page.read_text()) if found == language]


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text())


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An empty home, and the console script of this interpreter first on the path."""
    folder = tmp_path_factory.mktemp("docs")
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "DEAPCACHE_HOME": str(folder), "PATH": scripts + os.pathsep + os.environ["PATH"]}


def run(commands: str, environment: dict[str, str], folder: Path | None = None) -> None:
    """Run commands, a line each; all must succeed."""
    for line in commands.splitlines():
        words = shlex.split(line, comments=True)
        done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.fixture(scope="module")
def readme_home(environment, tmp_path_factory) -> Path:
    """The home that the README's commands leave."""
    (commands,) = blocks(ROOT / "README.md", "bash")
    run(commands, environment, photographs(tmp_path_factory.mktemp("readme")))
    return Path(environment["DEAPCACHE_HOME"])


def photographs(folder: Path) -> Path:
    """What the pages' own commands and examples are given beside the home."""
    Image.new("RGB", (64, 48), "teal").save(folder / "photo.jpg")
    shutil.copytree(ROOT / "tests" / "data" / "exports" / "coco", folder / "export")
    return folder


@pytest.fixture
def desk(readme_home, environment, tmp_path) -> dict[str, str]:
    """A folder with a photograph and a copy of the README's home, which the environment names."""
    shutil.copytree(readme_home, photographs(tmp_path) / "cache")
    return {**environment, "DEAPCACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}


BEFORE = {
    "docs/layers.md": "deapcache extract --backbone timm:test_vit@untrained --dataset scenes --limit 8 --layers 2,4,6 "
    "--tokens cls",
    "docs/reproducing.md": "deapcache probe --task depth --readout no-sigma --limit 16 --iterations 20 --batch-size 8",
}
"""What the examples of a page speak of beside the README's home."""

AFTER = {
    "docs/bring-your-model.md": "assert (train.backbone, val.read_features([0]).shape) == ('Mine', (1, 6, 6, 48))",
    "README.md": "assert volumes.shape == (3, 14, 14, 112) and volumes.dtype == 'float16'",
    "docs/cache.md": "assert volume.shape == (14, 14, 112)",
    "docs/extracting.md": "assert [(report.images, report.total) for report in reports] == [(8, 60)]",
    "docs/layers.md": "assert (tokens.shape, volumes.shape) == ((2, 64), (2, 10, 10, 64))",
    "docs/predicting.md": "assert (small.shape, large.shape) == ((56, 56), (448, 448))",
    "docs/python.md": "assert len(done) == 4 and len(frame) == 4 and len(volumes) == 8 and len(mean) == 112",
    "docs/readouts.md": "assert output.shape == (2, 21, 224, 224)",
    "docs/reproducing.md": "assert low <= high",
}
"""What a page says that its examples give."""


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_the_python_examples_of_a_page_run(page, desk, readme_home, tmp_path):
    """All of a page in one process and in order, as in a notebook."""
    name = name_of(page)
    run(BEFORE.get(name, ""), desk)
    script = tmp_path / "page.py"
    text = "\n".join([*blocks(page, "python"), 'if __name__ == "__main__":', f"    {AFTER.get(name, 'pass')}", ""])
    # homes that a page imagines on other machines
    script.write_text(text.replace("/data/lab-a", str(tmp_path / "cache")).replace("/data/lab-b", str(readme_home)))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=desk, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page, "bash")], ids=name_of)
def test_the_commands_of_a_page_run(page, desk, tmp_path):
    """In order, on what the README's commands left."""
    run("".join(blocks(page, "bash")), desk, tmp_path)


def commands(page: Path) -> list[str]:
    """The deapcache commands in fences that are not run: those for data, weights and machines that tests lack."""
    lines = "".join(blocks(page, "")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("deapcache ")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_commands_that_are_not_run_have_the_options_that_they_name(page, monkeypatch):
    monkeypatch.chdir(TEMPLATE.parent)  # whose plugin some commands name: it is run when options are read
    with forgotten_plugins():
        for line in commands(page):
            parse(shlex.split(line, comments=True))


def parse(words: list[str]) -> None:
    """Read a command with its options and do nothing; raises what a user would be told of a mistake."""
    from typer.main import get_command

    from deapcache.cli.app import app

    command, context = get_command(app), None
    while True:
        context = command.make_context(words[0], words[1:], parent=context)
        if not hasattr(command, "resolve_command"):
            return
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        words = [name, *rest]


def test_the_documentation_names_every_verb_and_no_other():
    from deapcache.cli.app import app

    verbs = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    lines = [line for page in PAGES for line in commands(page) + "".join(blocks(page, "bash")).splitlines()]
    inline = [found for page in PAGES for found in re.findall(r"`deapcache ([a-z]+)", prose(page))]
    assert {line.split()[1] for line in lines} | set(inline) == verbs


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub addresses them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_inside_the_documentation_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose(page)):
        place = page.parent / target if target else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), f"{target}#{anchor}"


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#]+\.md)", index.read_text())}
    pages = {page for page in PAGES[1:] if page != index and page.parent == index.parent}
    assert pages <= linked


def test_the_readme_claims_no_speed_that_was_not_measured():
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if "times as fast" in line]
    claimed = {number for line in lines for number in re.findall(r"\d+\.\d+", line)}
    assert claimed
    assert claimed <= set(re.findall(r"\d+\.\d+", (ROOT / "docs" / "performance.md").read_text()))


def messages() -> list[str]:
    """The texts in the package's source, with … for what is filled in."""
    trees = [ast.parse(file.read_text()) for file in (ROOT / "deapcache").rglob("*.py")]
    return [text for tree in trees for node in ast.walk(tree) if (text := text_of(node))]


def text_of(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or ELIDED for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_the_messages_that_troubleshooting_explains_exist():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"\*\*`([^`]+)`\*\*", page)
    known = messages()
    assert len(quoted) > 40
    assert [text for text in quoted if not any(is_part(text, message) for message in known)] == []


def is_part(quoted: str, message: str) -> bool:
    """Whether the pieces of what is quoted stand in a message in this order, with anything between them."""
    place = 0
    for piece in quoted.removeprefix("error: ").split(ELIDED):
        place = message.find(piece, place)
        if place < 0:
            return False
        place += len(piece)
    return True
