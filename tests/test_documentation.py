"""The commands and Python examples of the README and the docs run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_the_commands_of_the_readme_run(environment):
    (commands,) = blocks(ROOT / "README.md", "bash")
    for line in commands.splitlines():
        done = subprocess.run(shlex.split(line), env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    (example,) = blocks(ROOT / "README.md", "python")
    script = f"{example}\nassert volumes.shape == (3, 14, 14, 112)"
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_documentation_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_documentation_names_every_verb():
    from deapcache.cli.app import app

    text = "\n".join(page.read_text() for page in PAGES)
    for command in app.registered_commands:
        assert f"deapcache {command.name}" in text
