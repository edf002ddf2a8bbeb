"""Faults on purpose: how many were injected and survived, and processes that can be killed at any moment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deapcache.locations import MANIFEST, LocalLocation

EVERY = os.environ.get("DEAPCACHE_FAULTS") == "every"
"""Whether even what takes tens of minutes is tried whole."""
LONG = EVERY or os.environ.get("DEAPCACHE_FAULTS") == "long"
"""Whether many moments are tried (``make test-faults``), or a few (``make test``)."""

ROOT = Path(__file__).resolve().parents[2]
CHILD = ROOT / "tests" / "faults" / "extract_child.py"


@dataclass
class Tally:
    """Faults by kind: [injected, survived, what the user sees]."""

    rows: dict[str, list[object]] = field(default_factory=dict)

    @contextmanager
    def fault(self, kind: str, seen: str, count: int = 1) -> Iterator[None]:
        """So many faults are injected in the block; they are survived if it ends without an error."""
        row = self.rows.setdefault(kind, [0, 0, seen])
        row[0] += count  # type: ignore[operator]
        yield
        row[1] += count  # type: ignore[operator]

    def add(self, rows: dict[str, list[object]]) -> None:
        """What another process has counted."""
        for kind, (injected, survived, seen) in rows.items():
            row = self.rows.setdefault(kind, [0, 0, seen])
            row[0] += injected  # type: ignore[operator]
            row[1] += survived  # type: ignore[operator]


TALLY = Tally()


def environment(**more: str) -> dict[str, str]:
    """Of a child process that imports this checkout and its test support."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}", "OMP_NUM_THREADS": "1", **more}


class Extractors:
    """Starts extractions as processes of their own, quickly: one process imports everything once, and forks."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, str(CHILD)]
        self._parent = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment())

    def start(self, root: Path, home: object, log: Path, **variables: str) -> int:
        """Begin to extract into ``home``, with these environment variables; returns the process id."""
        return int(self._ask({"root": str(root), "home": str(home), "log": str(log), **variables}))

    def command(self, log: Path, *arguments: object) -> int:
        """Begin a command of the command line; returns the process id."""
        return int(self._ask({"arguments": [str(each) for each in arguments], "log": str(log)}))

    def wait(self, process: int) -> int:
        """The exit code, negative for a signal, once it has ended."""
        return int(self._ask({"wait": process}))

    def running(self, process: int) -> bool:
        """Whether it has not ended; call :meth:`wait` afterwards all the same."""
        return self._ask({"poll": process}) == "running"

    def run(self, root: Path, home: object, log: Path, **variables: str) -> float:
        """Extract to the end; returns the seconds it took."""
        start = time.monotonic()
        code = self.wait(self.start(root, home, log, **variables))
        assert code == 0, log.read_text()
        return time.monotonic() - start

    def close(self) -> None:
        """End the parent; its children have been waited for."""
        self._parent.communicate(timeout=60)

    def _ask(self, request: dict[str, object]) -> str:
        assert self._parent.stdin
        assert self._parent.stdout
        self._parent.stdin.write(json.dumps(request) + "\n")
        self._parent.stdin.flush()
        answer = self._parent.stdout.readline().strip()
        assert answer, "the parent of the extractors has ended"
        return answer


_PASSING = re.compile("/(provenance|claims)/")


def cache_bytes(home: LocalLocation) -> dict[str, bytes]:
    """Everything in the caches of a home but provenance, claims and manifests: what two extractions must have alike.

    Manifests are derived and renewed while a cache grows; each must be whole all the same.
    """
    kept = {}
    for kind in ("features", "images", "targets"):
        kept |= {key: home.read(key) for key in home.keys(kind) if not _PASSING.search(key)}
    manifests = [key for key in kept if key.endswith(f"/{MANIFEST}")]
    assert all("keys" in json.loads(kept.pop(key)) for key in manifests)
    return kept


def shard_keys(keys: dict[str, bytes]) -> list[str]:
    """Those of them that are shards of features."""
    return sorted(key for key in keys if key.startswith("features/") and "/features/c." in key)


def leftovers(home: Path) -> list[Path]:
    """Temporaries that killed writers left."""
    return sorted(home.rglob(".*.partial"))
