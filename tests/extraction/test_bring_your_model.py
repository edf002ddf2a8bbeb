"""The page about bringing a model runs, from nothing to one table with three named rows."""

from __future__ import annotations

import itertools
import re
import runpy
import shlex
from pathlib import Path

import pytest
from deapcache_plugins import forgotten_plugins

from deapcache.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "bring-your-model.md").read_text()


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", reason="needs the package transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEAPCACHE_HOME", str(tmp_path / "home"))
    for source in re.findall(r"^```py\n(# (\w+\.py): .*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        Path(source[1]).write_text(source[0])
    Path("mine.yaml").write_text(re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)[0])
    commands = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    tables: dict[str, str] = {}
    with forgotten_plugins():
        for line in "".join(commands).splitlines():
            program, *words = shlex.split(line)
            if program == "python":
                runpy.run_path(words[0])
                continue
            with pytest.raises(SystemExit, match="0"):
                main(words)
            tables[words[0]] = capsys.readouterr().out
    for name, command in itertools.product(("hf:my-dinov2@112", "mine-ep100@112", "mine@112"), ("results", "run")):
        assert re.search(rf"^{name} ", tables[command], flags=re.MULTILINE), f"{name} in {command}"
