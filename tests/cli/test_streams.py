"""Whatever takes what is printed, the work is done and no traceback comes of it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deapcache.cli import main
from deapcache.cli.console import robust_streams

DEAPCACHE = Path(sys.executable).with_name("deapcache")


def sh(script: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "DC": str(DEAPCACHE), **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("encoding", "up"),
    [("utf-8", "↑"), ("latin-1", "^"), ("ascii", "^"), ("cp1252", "^"), ("koi8-r", "^"), ("utf-16", "↑")],
)
def test_every_encoding_will_do(monkeypatch: pytest.MonkeyPatch, encoding: str, up: str) -> None:
    taken = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(taken, encoding=encoding))
    with pytest.raises(SystemExit) as ended:
        main(["list", "tasks"])
    assert ended.value.code == 0
    assert f"iou {up}" in taken.getvalue().decode(encoding)


def test_the_encoding_of_the_environment_is_that_of_the_process() -> None:
    done = sh("$DC --help", PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Backbones x tasks" in done.stdout or "Backbones × tasks".encode() in done.stdout


@pytest.mark.parametrize(
    ("redirections", "code", "told"),
    [
        (">&-", 0, b""),
        (">/dev/full", 1, b"error: stdout cannot be written: No space left on device"),
        ("2>&- >/dev/null", 0, b""),
        ("2>/dev/full >/dev/null", 0, b""),
        ("<&- >&- 2>&-", 0, b""),
        ("| head -c 1 >/dev/null; exit ${PIPESTATUS[0]}", 0, b""),
    ],
)
def test_streams_that_are_closed_full_or_not_read(redirections: str, code: int, told: bytes) -> None:
    done = sh(f"$DC --version {redirections}")
    assert done.returncode == code
    assert done.stderr.startswith(told)
    assert len(done.stderr.splitlines()) == bool(told)


def test_a_closed_stdout_is_no_file_of_the_home(tmp_path: Path) -> None:
    """The next file that a process opens takes the lowest free descriptor: what is printed would go into it."""
    code = (
        "import os, sys; from deapcache.cli.console import robust_streams\n"
        f"with robust_streams():\n  file = os.open({str(tmp_path / 'shard')!r}, os.O_CREAT | os.O_WRONLY)\n"
        "  print('text'); os.write(1, b'of a library'); sys.exit(0 if file > 2 else 5)"
    )
    done = sh(f'"{sys.executable}" -c "$CODE" >&- 2>&- <&-', CODE=code)
    assert done.returncode == 0
    assert (tmp_path / "shard").read_bytes() == b""


def test_a_script_that_reads_json_gets_json_in_every_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    from deapcache.cli.console import print_json

    for encoding in ("utf-8", "latin-1", "ascii"):
        taken = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", taken)
        with robust_streams() as output:
            assert output is None
            print_json({"name": "café 図 😀 \udce9"})
        taken.seek(0)
        assert json.loads(taken.read()) == {"name": "café 図 😀 \udce9"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10 – 20 → 3 × 4 ± 1 … σ², √", b"10 - 20 -> 3 x 4 +- 1 ... sigma^2, sqrt"),
        ("図.png", b"\\u56f3.png"),
        ("caf\udce9", b"caf\\udce9"),
    ],
)
def test_what_an_encoding_lacks_is_spelled_out(monkeypatch: pytest.MonkeyPatch, text: str, expected: bytes) -> None:
    taken = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(taken, encoding="ascii"))
    with robust_streams():
        print(text, end="")
    assert taken.getvalue() == expected


def test_the_work_is_done_though_nobody_can_be_told(make_coco, home) -> None:
    root = make_coco(4, 2)
    extract = f'$DC extract --backbone efficientnet-lite0-s16 --dataset coco --data-root "{root}" --home "{home.path}"'
    done = sh(f"{extract} >/dev/full 2>/dev/full")
    assert done.returncode == 1
    again = sh(f"{extract} --json", PYTHONIOENCODING="ascii")
    assert again.returncode == 0, again.stderr
    assert [(one["images"], one["extracted"]) for one in json.loads(again.stdout)] == [(4, 0), (2, 0)]
