"""How far a result goes from its file to a cell of the page: the files that one reads to follow it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd
from deapcache_results import save_depth

import deapcache
from deapcache.results import Result
from deapcache.results.leaderboard import Collected, Leaderboard

PACKAGE = Path(deapcache.__file__).parent


def carries_a_result(value: Any) -> bool:
    """Whether ``value`` is a result, results, a frame of them, or a line of such a frame."""
    if isinstance(value, Result | Collected | Leaderboard | pd.DataFrame):
        return True
    if isinstance(value, tuple) and hasattr(value, "_fields") and "results" in value._fields:
        return True
    return isinstance(value, list | tuple) and len(value) > 0 and carries_a_result(value[0])


@contextmanager
def files_that_take_a_result() -> Iterator[set[str]]:
    """The files of deapcache with a function that was called with a result, or gave one back, in the block."""
    found: set[str] = set()

    def watch(frame: FrameType, event: str, given_back: Any) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(str(PACKAGE)):
            return
        taken: Iterable[Any] = frame.f_locals.values() if event == "call" else [given_back]
        if event in ("call", "return") and any(map(carries_a_result, taken)):
            found.add(str(Path(code.co_filename).relative_to(PACKAGE)))

    sys.setprofile(watch)
    try:
        yield found
    finally:
        sys.setprofile(None)


def test_a_result_passes_few_files_on_its_way_to_a_cell_of_the_page(cli, home, tmp_path):
    save_depth(home)
    with files_that_take_a_result() as found:
        done = cli("leaderboard", "--home", home, "--no-paper", "--format", "html", "--out", tmp_path / "site")
    assert done.code == 0, done.err
    of_the_panel = {"results/leaderboard/reproduce.py"}  # the commands that make a run again stand in no cell
    assert found - of_the_panel == {
        "cli/results.py",
        "results/record.py",
        "results/frame.py",
        "results/intervals.py",
        "results/leaderboard/board.py",
        "results/leaderboard/page.py",
        "results/leaderboard/page.html.j2",
    }
