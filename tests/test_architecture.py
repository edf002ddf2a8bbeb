"""The house: rooms import downward only, and what needs no model library loads none."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deapcache_results import save_each_task

import deapcache
from deapcache.locations import LocalLocation
from deapcache.tasks import TASKS

PACKAGE = Path(deapcache.__file__).parent
LEVELS = (
    {"cli", "api"},
    {"experiments"},
    {"extraction", "probing", "results"},
    {"cache", "backbones", "datasets", "readouts", "tasks"},
    {
        "annotations",
        "errors",
        "locations",
        "machine",
        "openmp",
        "plugins",
        "processes",
        "protocols",
        "recipe",
        "regions",
        "untrusted",
    },
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def imported_rooms(file: Path) -> set[str]:
    """Rooms that a file imports anywhere, also within functions and for types only."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "deapcache":
            names += [f"deapcache.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("deapcache.")}
    return found


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_rooms_import_downward_only(file):
    room = file.relative_to(PACKAGE).parts[0]
    for other in imported_rooms(file) - {room}:
        lowest = LEVEL[room] == len(LEVELS) - 1
        assert LEVEL[other] > LEVEL[room] or (lowest and LEVEL[other] == LEVEL[room]), f"{room} imports {other}"


MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


def imported_modules(file: Path) -> set[str]:
    """Files of the package that a file imports anywhere, also within functions and for types only, as modules."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            each = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in each}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


def files_in_circles() -> set[str]:
    """The modules that, by way of others, import themselves."""
    imported = {module: imported_modules(file) - {module} for module, file in MODULES.items()}

    def reached_from(module: str) -> set[str]:
        found: set[str] = set()
        left = {module}
        while left:
            left = set().union(*(imported[each] for each in left)) - found
            found |= left
        return found

    return {module for module in MODULES if module in reached_from(module)}


def test_files_do_not_import_each_other_in_circles():
    left = files_in_circles()
    assert not left, f"these files import each other in circles, perhaps late or for types: {', '.join(sorted(left))}"


def test_every_room_is_known():
    found = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    found |= {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert found == set(LEVEL)


def test_public_names_exist():
    for name in deapcache.__all__:
        assert getattr(deapcache, name) is not None
    with pytest.raises(AttributeError, match="its names are"):
        deapcache.nonsense  # noqa: B018


MODELS = {"torch", "timm", "open_clip", "transformers"}
HEAVY = {*MODELS, "matplotlib", "pandas", "dask"}
ROOMS = ("api", "cli", "cache", "datasets", "backbones", "readouts", "tasks", "results", "results.leaderboard")
LIGHT = ["deapcache", *(f"deapcache.{room}" for room in ROOMS), "deapcache.results.verdict"]


@pytest.mark.parametrize("names", LIGHT)
def test_import_loads_no_model_library(names):
    script = f"import sys, {names}; print(*{HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


def run_and_say_what_is_loaded(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """``deapcache COMMAND``, whose last line on stderr names the model libraries that were imported."""
    script = (
        "import atexit, sys; from deapcache.cli import main\n"
        f"atexit.register(lambda: print('loaded:', *{MODELS} & set(sys.modules), file=sys.stderr)); main()"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *command.split()],
        env={**os.environ, "DEAPCACHE_HOME": str(home)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("compare --help", ""),
        ("compare scenes", "Missing option '--backbone'"),
        ("compare scenes --backbone dinov2 --minutes 0", "minutes above 0"),
        ("compare scenes --backbone dinov2 --out report.txt", "a name that ends in .html"),
        ("compare scenes --backbone dinov", "unknown backbone 'dinov'"),
        ("compare scenes --backbone dinov2 --task dept", "unknown task 'dept'"),
        ("compare scens --backbone dinov2", "unknown dataset 'scens'"),
        ("extract --backbone dinov2 --dataset scens", "unknown dataset 'scens'"),
        ("probe --task depth --seed one", "--seed 'one'"),
        ("probe --task depth --where storage", "--where takes FIELD=VALUE"),
        ("probe --task depth --train-limit none", "--train-limit 'none'"),
        ("predict --readout a --image b --out c --size 0", "size '0'"),
        ("figures resolutions --size 0 --out a.png", "size '0'"),
        ("figures sigma --out a.gif", "--out a.gif"),
    ],
)
def test_what_is_mistyped_is_said_without_loading_a_model_library(command, says, tmp_path):
    done = run_and_say_what_is_loaded(command, tmp_path)
    *said, loaded = done.stderr.splitlines()
    assert (done.returncode, loaded) == (2 if says else 0, "loaded:")
    assert says in "\n".join(said)


@pytest.fixture(scope="module")
def home_with_results(tmp_path_factory):
    """A home with one run of every task."""
    home = LocalLocation(tmp_path_factory.mktemp("results"))
    save_each_task(home)
    return home.path


@pytest.mark.parametrize(
    "verb",
    [
        "list backbones",
        "list datasets",
        "list tasks",
        "list readouts",
        "list protocols",
        "results",
        "results --paper",
        "results --per-class",
        "leaderboard",
        "leaderboard --format html --per-class",
        "cache ls",
    ],
)
def test_verb_loads_no_model_library(verb, home_with_results, tmp_path):
    home = shutil.copytree(home_with_results, tmp_path / "home")
    done = run_and_say_what_is_loaded(verb, home)
    *said, loaded = done.stderr.splitlines()
    assert (done.returncode, loaded) == (0, "loaded:")
    assert len(said) == (verb == "list backbones"), "one line: how many more names there are"
    assert done.stdout
    if verb == "results":
        assert len(list((home / "intervals").iterdir())) == len(TASKS.names()), "not all tasks were scored"
