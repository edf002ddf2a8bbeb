"""The page about bringing a model runs, from nothing to one table with three named rows."""

from __future__ import annotations

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
    (commands,) = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    with forgotten_plugins():
        for line in commands.splitlines():
            program, *words = shlex.split(line)
            if program == "python":
                runpy.run_path(words[0])
                continue
            with pytest.raises(SystemExit, match="0"):
                main(words)
    table = capsys.readouterr().out
    for name in ("hf:my-dinov2@112", "mine-ep100@112", "mine@112"):
        assert re.search(rf"^{name} ", table, flags=re.MULTILINE), name
