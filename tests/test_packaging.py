"""What a user gets who has no checkout: the wheel, the notebook, the container."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOK = ROOT / "docs" / "first-look.ipynb"


def run(*command: object, cwd: Path, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DEAPCACHE_HOME")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**clean, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what a source archive of the tree has."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("deapcache", "pipelines"):
        shutil.copytree(ROOT / name, folder / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree" / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, folder / "tree", cwd=folder)
    (built,) = folder.glob("deapcache-*.whl")
    return built


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "deapcache").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected |= {f"deapcache/pipelines/{path.name}" for path in (ROOT / "pipelines").glob("*.yaml")}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed - {"deapcache/pipelines/__init__.py"} == expected - {"deapcache/pipelines/__init__.py"}


@pytest.mark.slow
def test_the_wheel_runs_the_demo_in_an_environment_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    scripts = tmp_path / "env" / "bin"
    run(
        sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--no-deps", "--no-index", "--quiet",
        wheel, cwd=tmp_path,
    )  # fmt: skip
    # the dependencies, which are gigabytes, are those of this environment: a path that a .pth file names is looked at
    # last, and .pth files in it, such as that of an editable deapcache, are not
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    home = {"DEAPCACHE_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    place = run(scripts / "python", "-c", "import deapcache; print(deapcache.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(packages)
    assert run(scripts / "deapcache", "--version", cwd=tmp_path).strip() == f"deapcache {PROJECT['version']}"
    assert "--iterations" in run(scripts / "deapcache", "demo", "--help", cwd=tmp_path)
    # what `deapcache demo` runs, with less of everything
    small = ["iterations=2", "seeds=[0]", "batch_size=2"]
    small += ["probes=[{tasks: [depth], dataset: scenes, limit: 2, readouts: [linear]}]"]
    options = [word for setting in small for word in ("--set", setting)]
    shown = run(scripts / "deapcache", "run", "demo", *options, cwd=tmp_path, **home)
    assert "depth · scenes" in shown
    assert "efficientnet-lite0-s16" in shown


def test_the_notebook_is_one_that_readers_open() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert NOTEBOOK.stat().st_size < 300_000
    for link in re.findall(r"\]\(([^)]+)\)", "".join(source(cell) for cell in notebook["cells"])):
        assert (NOTEBOOK.parent / link).exists(), link
    pictures = [
        output for cell in notebook["cells"] for output in cell.get("outputs", []) if "image/png" in output["data"]
    ]
    assert len(pictures) == 2


def source(cell: dict[str, object]) -> str:
    return "".join(cell["source"])  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_in_order(tmp_path: Path) -> None:
    """All in one process, with fewer images and steps than its first cell says."""
    cells = [source(cell) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert re.fullmatch(r"IMAGES = \d+ .*\nSTEPS = \d+ .*", cells[0])
    cells[0] = "IMAGES = 4\nSTEPS = 2"
    check = "assert len(frame) == 4 and val.read_features([0]).shape == (1, 14, 14, 112), frame"
    environment = {"DEAPCACHE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # not from a file, which processes that read images would run again: a notebook is none either
    run(sys.executable, "-c", "\n\n".join([*cells, check]), cwd=tmp_path, **environment)
    assert (tmp_path / "features.png").stat().st_size > 10_000


def test_the_dockerfile_names_what_is_there() -> None:
    """No image is built here: what its lines refer to exists."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    known = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in lines} <= known
    copied = [name for word, rest in lines if word == "COPY" for name in rest.split()[:-1]]
    allowed = (ROOT / ".dockerignore").read_text().split()
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in allowed
    assert {
        "pyproject.toml",
        "setup.py",
        PROJECT["readme"],
        *PROJECT["license-files"],
        "deapcache",
        "pipelines",
    } <= set(copied)
    arguments = dict(rest.split("=") for word, rest in lines if word == "ARG")
    assert set(arguments["EXTRAS"].split(",")) <= set(PROJECT["optional-dependencies"])
    assert arguments["TORCH_BACKEND"] == "cpu"
    assert "${TORCH_BACKEND}" in text
    minimum = PROJECT["requires-python"].removeprefix(">=")
    (base,) = [rest for word, rest in lines if word == "FROM"]
    assert base == f"python:{minimum}-slim"
    (entry,) = [json.loads(rest) for word, rest in lines if word == "ENTRYPOINT"]
    assert entry[0] in PROJECT["scripts"]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert set(citation["keywords"]) == set(PROJECT["keywords"])


def test_what_contributing_tells_to_run_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"`?make ([a-z-]+)", text)) <= set(targets)
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / link).exists(), link
    for path in re.findall(r"`((?:tests|deapcache|docs)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path
