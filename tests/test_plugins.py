"""Plugins: files and entry points that register, and what is said of those that fail."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from deapcache_plugins import CONVOLUTION, REGISTRIES, forgotten_plugins, write_plugin

from deapcache import plugins
from deapcache.backbones import BACKBONES, describe
from deapcache.datasets import DATASETS, workers
from deapcache.errors import PluginError, UsageError
from deapcache.readouts import READOUTS
from deapcache.tasks import TASKS

EVERYTHING = """\
from pathlib import Path
from deapcache.annotations import ANNOTATIONS
from deapcache.backbones import BACKBONES, register_backbone
from deapcache.datasets import DATASETS
from deapcache.readouts import READOUTS
from deapcache.tasks import TASKS
from torch import nn

taken = BACKBONES.names()  # a plugin may look things up

class Squares:
    name = "squares"
    computes_images = True

    def __init__(self, root):
        self.root = root

    @classmethod
    def open(cls, root):
        return cls(root)

    def side(self):
        return 7

register_backbone("mine", nn.Identity, image_size=(64, 96), grid=(4, 6), dim=3)
DATASETS["squares"] = Squares
TASKS.add("rims", TASKS.get("boundaries"))
READOUTS.add("plain", READOUTS.get("linear"))
ANNOTATIONS.add("heights", ANNOTATIONS.get("depth"))
"""


@pytest.fixture(autouse=True)
def _forget():
    with forgotten_plugins():
        yield


def test_a_file_adds_to_every_registry(tmp_path: Path) -> None:
    before = {registry: registry.names() for registry in REGISTRIES}
    file = write_plugin(tmp_path, EVERYTHING)
    plugins.use([file])
    new = [[name for name in registry.names() if name not in before[registry]] for registry in REGISTRIES]
    assert new == [["mine"], ["squares"], ["rims"], ["plain"], ["heights"]]
    assert (describe("mine").image_size, describe("mine").grid) == ((64, 96), (4, 6))
    digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert (TASKS.source("rims"), READOUTS.source("plain"), TASKS.source("boundaries")) == (digest, digest, "")


def test_the_variable_alone_suffices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [write_plugin(tmp_path, EVERYTHING), write_plugin(tmp_path, CONVOLUTION, "other.py")]
    monkeypatch.setenv(plugins.VARIABLE, os.pathsep.join(map(str, files)))
    assert {"mine", "one-convolution"} < set(BACKBONES.names())
    assert plugins.plugin_files() == files


def test_a_file_given_twice_runs_once(tmp_path: Path) -> None:
    file = write_plugin(tmp_path, CONVOLUTION)
    plugins.use([file, file])
    plugins.use([file])
    assert os.environ[plugins.VARIABLE] == str(file)


def test_another_process_unpickles_what_a_plugin_made(tmp_path: Path) -> None:
    plugins.use([write_plugin(tmp_path, EVERYTHING)])
    squares = DATASETS.get("squares").open(tmp_path)
    with workers(squares) as pool:
        assert isinstance(pool, ProcessPoolExecutor)
        assert pool.submit(squares.side).result() == 7


ASKED_FIRST_BY_A_PLUGIN = """
from deapcache.backbones import BACKBONES, describe
from deapcache.datasets import DATASETS
from deapcache.readouts import READOUTS
from deapcache.tasks import TASKS

print(describe("mine").dim)
for registry in (BACKBONES, DATASETS, TASKS, READOUTS):
    print(*(name for name in registry.names() if registry.source(name)))
"""


def test_a_subprocess_inherits_the_files_and_its_own_names_are_no_plugins(tmp_path: Path) -> None:
    """A name with a source makes runs of another name: the same readout would be another one beside any plugin."""
    plugins.use([write_plugin(tmp_path, "from deapcache.readouts import deap\n" + EVERYTHING)])
    command = [sys.executable, "-c", ASKED_FIRST_BY_A_PLUGIN]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["3", "mine", "squares", "rims", "plain"]


BROKEN = {
    "syntax": ("x = 1\nx ==== 2\n", "line 2: SyntaxError: invalid syntax"),
    "name": ("x = 1\n\nprint(y)\n", "line 3: NameError: name 'y' is not defined"),
    "import": ("import no_such_module_at_all\n", "line 1: ModuleNotFoundError: No module named"),
    "inside a library": ("import json\njson.loads('{')\n", "line 2: JSONDecodeError"),
    "taken": (CONVOLUTION.replace("one-convolution", "dinov2"), "line 13: backbone 'dinov2' is registered twice"),
    "size": (CONVOLUTION.replace("dim=8", "dim=0"), "line 13: backbone 'one-convolution': dim is 0, expected a whole"),
    "spelling": (CONVOLUTION.replace('"one-convolution"', '"one:c"'), "line 13: backbone 'one:c': a name has letters"),
    "pair": (CONVOLUTION.replace("grid=4", "grid=(4, 4, 8)"), "grid is (4, 4, 8), expected one number, or height"),
    "std": (CONVOLUTION.replace("dim=8", "dim=8, std=(1, 1, 0)"), "std is (1, 1, 0), expected three numbers above 0"),
    "category": (CONVOLUTION.replace("dim=8", "dim=8, category='x'"), "category is 'x', expected supervised, self-"),
    "hub": (CONVOLUTION.replace("dim=8", "dim=8, weights='hf://a/b'"), "expected hf://OWNER/REPOSITORY/FILE"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_plugin_that_fails_is_one_line_with_its_place(tmp_path: Path, case: str) -> None:
    source, expected = BROKEN[case]
    file = write_plugin(tmp_path, source)
    with pytest.raises(PluginError) as raised:
        plugins.use([file])
    message = str(raised.value)
    assert message.startswith(f"plugin {file}, line ")
    assert expected in message
    assert "\n" not in message
    assert plugins.VARIABLE not in os.environ


def test_it_fails_each_time_and_for_the_same_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugins.VARIABLE, str(write_plugin(tmp_path, CONVOLUTION + "1 / 0\n")))
    for _ in range(2):
        with pytest.raises(PluginError, match="line 14: ZeroDivisionError"):
            TASKS.get("boundaries")


@pytest.mark.parametrize("name", ["none.py", "."])
def test_what_is_no_file_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no such file"):
        plugins.use([tmp_path / name])


def test_another_kind_of_file_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a \.py file"):
        plugins.use([write_plugin(tmp_path, CONVOLUTION, "plugin.txt")])


def install(folder: Path, name: str, source: str, group: str) -> None:
    """Put a package with one module into ``folder``, which names that module in an entry-point group."""
    write_plugin(folder, source, f"{name}.py")
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{group}]\nmine = {name}\n")


@pytest.mark.parametrize("source", [CONVOLUTION, "1 / 0\n"])
def test_an_installed_package_names_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    name = f"package_with_plugin_{len(source)}"
    install(tmp_path, name, source, "deapcache.plugins")
    monkeypatch.syspath_prepend(tmp_path)
    if source is CONVOLUTION:
        assert "one-convolution" in BACKBONES
    else:
        with pytest.raises(PluginError, match=rf"plugin mine \({name}\): .*{name}.py, line 1: ZeroDivisionError"):
            BACKBONES.names()
