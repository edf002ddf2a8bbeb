"""The shipped pipelines come with an installed deapcache too, not only with a checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

from deapcache_testing import require

from deapcache.experiments import shipped_pipelines

ROOT = Path(__file__).resolve().parents[2]
BUILT_FROM = ("deapcache", "pipelines", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def test_a_wheel_holds_the_pipelines_and_finds_them(tmp_path):
    require(int(version("setuptools").partition(".")[0]) >= 77, "setuptools 77, which builds deapcache")
    source = tmp_path / "source"
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (source / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "deapcache").rglob("*.py")}
    assert modules <= {str(file.relative_to(installed)) for file in installed.rglob("*.py")}
    script = "from deapcache.experiments import load_pipeline as load, shipped_pipelines as all; "
    script += "print(*(file for name, file in all().items() if load(name)), sep='\\n')"
    found = subprocess.run([sys.executable, "-c", script], cwd=installed, check=True, capture_output=True, text=True)
    assert found.stdout.split() == [f"{installed}/deapcache/pipelines/{name}.yaml" for name in shipped_pipelines()]
