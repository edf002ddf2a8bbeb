"""The commands and Python examples of the README and the docs run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An empty home, and the console script of this interpreter first on the path."""
    folder = tmp_path_factory.mktemp("docs")
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "DEAPCACHE_HOME": str(folder), "PATH": scripts + os.pathsep + os.environ["PATH"]}


def run(commands: str, environment: dict[str, str]) -> None:
    """Run commands, a line each; all must succeed."""
    for line in commands.splitlines():
        done = subprocess.run(shlex.split(line), env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.fixture(scope="module")
def readme_home(environment) -> Path:
    """The home that the README's commands leave."""
    (commands,) = blocks(ROOT / "README.md", "bash")
    run(commands, environment)
    return Path(environment["DEAPCACHE_HOME"])


BEFORE = {
    "docs/layers.md": "deapcache extract --backbone timm:test_vit@untrained --dataset scenes --limit 8 --layers 2,4,6 "
    "--tokens cls",
    "docs/reproducing.md": "deapcache probe --task depth --readout no-sigma --limit 16 --iterations 20 --batch-size 8",
}
"""What the examples of a page speak of beside the README's home."""

AFTER = {
    "README.md": "assert volumes.shape == (3, 14, 14, 112) and volumes.dtype == 'float16'",
    "docs/cache.md": "assert volume.shape == (14, 14, 112)",
    "docs/layers.md": "assert (tokens.shape, volumes.shape) == ((2, 64), (2, 10, 10, 64))",
    "docs/predicting.md": "assert (small.shape, large.shape) == ((56, 56), (448, 448))",
    "docs/python.md": "assert len(done) == 4 and len(frame) == 4 and len(volumes) == 8 and len(mean) == 112",
    "docs/readouts.md": "assert output.shape == (2, 21, 224, 224)",
    "docs/reproducing.md": "assert low <= high",
}
"""What a page says that its examples give."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_python_examples_of_a_page_run(page, readme_home, environment, tmp_path):
    """All of a page in one process and in order, as in a notebook; beside a copy of the home and a photograph."""
    name = str(page.relative_to(ROOT))
    shutil.copytree(readme_home, tmp_path / "cache")
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "photo.jpg")
    own = {**environment, "DEAPCACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    run(BEFORE.get(name, ""), own)
    script = tmp_path / "page.py"
    text = "\n".join([*blocks(page, "python"), AFTER.get(name, ""), ""])
    # homes that a page imagines on other machines
    script.write_text(text.replace("/data/lab-a", str(tmp_path / "cache")).replace("/data/lab-b", str(readme_home)))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_documentation_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_documentation_names_every_verb():
    from deapcache.cli.app import app

    text = "\n".join(page.read_text() for page in PAGES)
    for command in app.registered_commands:
        assert f"deapcache {command.name}" in text
