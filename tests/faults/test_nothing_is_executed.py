"""Code that lies in checkpoints and arrays never runs, and no line of the package could run it."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deapcache_faults import ROOT, Tally

from deapcache.backbones import build
from deapcache.datasets.io import read_depth_npy
from deapcache.errors import DeapcacheError
from deapcache.readouts.featup import read_state


class Malice:
    """Unpickling it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_pickles_are_never_unpickled(tmp_path: Path, tally: Tally) -> None:
    trace = tmp_path / "executed"
    malice = Malice(trace)
    torch.save({"state_dict": malice}, tmp_path / "weights.ckpt")
    np.save(tmp_path / "depth.npy", np.array([malice], dtype=object), allow_pickle=True)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(malice))
    attempts: list[Callable[[], object]] = [
        lambda: build("efficientnet-lite0-s16", weights=tmp_path / "weights.ckpt"),
        lambda: build("efficientnet-lite0-s16", weights=tmp_path / "plain.pt"),
        lambda: read_state(tmp_path / "weights.ckpt"),
        lambda: read_depth_npy(tmp_path / "depth.npy"),
    ]
    for attempt in attempts:
        with tally.fault("a file with code to run", "an error that names the file; nothing runs"):
            with contextlib.suppress(DeapcacheError):
                attempt()
            assert not trace.exists()
    pickle.loads(pickle.dumps(malice))  # the trap works
    assert trace.exists()


UNSAFE = {
    r"\bpickle\.(load|loads)\b|\bpickle\.Unpickler(?!\):)": "unpickles",
    r"torch\.load\((?![^)]*weights_only=True)": "loads more than weights",
    r"allow_pickle\s*=\s*True": "unpickles",
    r"\bnp\.load\((?![^)]*allow_pickle=False)": "does not say allow_pickle=False",
    r"yaml\.(load|unsafe_load|full_load)\(": "builds what a document says",
    r"(?<![\w.])(?<!def )(eval|exec)\(": "runs text",
    r"\b(joblib|dill|cloudpickle|shelve|marshal)\b": "unpickles",
    r"shell\s*=\s*True": "runs a shell",
    r"os\.system\(": "runs a shell",
}


def test_no_line_of_the_package_executes_what_it_reads() -> None:
    """A subclass of ``pickle.Unpickler`` may look at a pickle if it makes nothing of the names in it."""
    found = [
        f"{file}: {why}"
        for file in sorted((ROOT / "deapcache").rglob("*.py"))
        if file.name != "plugins.py"  # whose purpose it is; a user names the files
        for pattern, why in UNSAFE.items()
        if re.search(pattern, file.read_text())
    ]
    assert found == []
