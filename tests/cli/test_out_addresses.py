"""``--out s3://bucket/x`` makes no folder called ``s3:``: it is refused in a line, or the bucket has it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize("address", ["s3://lab-results/x", "gs://lab/x", "https://host/x", "file:///tmp/x", "az://c/x"])
@pytest.mark.parametrize(
    "command",
    [
        ("leaderboard", "--format", "html", "--out", "{}"),
        ("figures", "parameters", "--paper", "--out", "{}.png"),
        ("submit", "a-run", "--out", "{}.zip"),
        ("cache", "info", "features", "--picture", "{}.png"),
        ("results", "--home", "{slash}"),
        ("probe", "--task", "depth", "--results-home", "{slash}"),
        ("cache", "ls", "--home", "{slash}"),
        ("probe", "--task", "depth", "--local-tier", "{}", "--local-tier-size", "1GB"),
    ],
    ids=lambda command: command[0] if command[0] not in ("cache", "probe") else " ".join(command[:2] + command[-2:-1]),
)
def test_an_address_is_refused_where_only_paths_are_written(cli, tmp_path, monkeypatch, command, address) -> None:
    if "{slash}" in command and address.startswith("file:"):
        pytest.skip("file:/path is a path, too")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEAPCACHE_HOME", str(tmp_path / "home"))
    lost_a_slash = str(Path(address))
    done = cli(*(word.format(address, slash=lost_a_slash) for word in command))
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert address in line
    assert not list(tmp_path.iterdir())
