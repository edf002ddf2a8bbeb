"""System calls that fail, each in turn, once or for good: the outcome is right, or one line says what is wrong where.

Nothing is called missing, damaged or unused that is not.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deapcache_faults import EVERY, LONG, Tally, cache_bytes, environment
from deapcache_results import save_depth
from deapcache_testing import require
from PIL import Image

from deapcache.locations import LocalLocation
from deapcache.results import load_results, load_statistics

SOURCE = Path(__file__).resolve().parents[1] / "support" / "injector.c"
CHILD = Path(__file__).with_name("inject_child.py")

CALLS = ("open", "opendir", "read", "fsync", "link", "rename", "chmod", "stat", "mkdir", "unlink")
"""The kinds of ``injector.c``, from 1."""

ERRORS = (errno.EIO, errno.EMFILE, errno.ENOTSUP, errno.EPERM)
SAMPLE = 10
"""Faults of each command in the short form."""
LONG_SAMPLE = 100
"""In the long form; ``DEAPCACHE_FAULTS=every`` tries every call in turn."""
BATCH = 16
MOST_TWICE = 100
"""Calls of a command of which each fails once, and once for good, in the long form."""

ACCUSING = re.compile(
    r"damaged|missing|not there|no cache|there is no|unused|never|repair|corrupt|absent|lacks|empty|extract again|"
    r"delete|not a result|none at all|0 caches|nothing to remove",
    re.IGNORECASE,
)
"""What nothing may be called because it could not be looked at."""


@dataclass(frozen=True)
class Ended:
    """What came of a command."""

    code: int
    out: str
    err: str
    home: LocalLocation


@dataclass(frozen=True)
class Verb:
    """A command to be disturbed."""

    arguments: Callable[[Path, Path], list[str]]
    """From dataset and home."""
    is_right: Callable[[Ended, Ended], bool]
    """Whether what it did, or said, is what it does undisturbed: the second."""
    begins_empty: bool = False


def _said(ended: Ended, *varying: str) -> Any:
    """A JSON document without what differs between two homes and moments."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items() if name not in varying}
        return [plain(one) for one in value] if isinstance(value, list) else value

    return plain(json.loads(ended.out.replace(str(ended.home), "HOME")))


def _same_caches(ended: Ended, whole: Ended) -> bool:
    return cache_bytes(ended.home) == cache_bytes(whole.home)


def _same_saying(*varying: str) -> Callable[[Ended, Ended], bool]:
    return lambda ended, whole: _said(ended, *varying) == _said(whole, *varying)


def _same_removal(ended: Ended, whole: Ended) -> bool:
    return ended.home.keys("features") == whole.home.keys("features") and _same_caches(ended, whole)


def _same_run(ended: Ended, whole: Ended) -> bool:
    (found,), (expected,) = load_results(ended.home), load_results(whole.home)
    same = load_statistics(ended.home, found.run).image_ids == load_statistics(whole.home, expected.run).image_ids
    return same and found.scores == expected.scores


def _cache(verb: str, *options: str) -> Callable[[Path, Path], list[str]]:
    return lambda _, home: ["cache", verb, *options, "--home", str(home), "--json"]


def _extract(data: Path, home: Path) -> list[str]:
    given = [
        "--backbone",
        "timm:test_vit@untrained",
        "--dataset",
        "folder:birds",
        "--split",
        "train",
        "--base-size",
        "32",
    ]
    return ["extract", *given, "--data-root", str(data), "--home", str(home)]


VERBS = {
    "extract": Verb(_extract, _same_caches, begins_empty=True),
    "ls": Verb(_cache("ls"), _same_saying("when", "last_use")),
    "verify": Verb(_cache("verify"), _same_saying("seconds")),
    "rm": Verb(_cache("rm", "features/", "--yes"), _same_removal),
    "prune": Verb(_cache("prune", "--unused", "--dry-run", "--filter", "kind=features,images"), _same_saying()),
    "results": Verb(lambda _, home: ["results", "--home", str(home), "--json"], _same_saying()),
    "save": Verb(lambda _, home: [], _same_run, begins_empty=True),
}


@dataclass(frozen=True)
class Fault:
    """The call of a kind that fails."""

    call: str
    number: int
    lasting: bool
    error: int


class Bench:
    """Runs commands, each on a home of its own, in forks of one process."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder = folder
        self.data = folder / "place" / "data"
        self.whole: dict[str, Ended] = {}
        self._count = 0
        command = [sys.executable, str(CHILD)]
        variables = environment(LD_PRELOAD=str(library), HF_HUB_OFFLINE="1")
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=variables)

    def close(self) -> None:
        """End the process that forks."""
        self._server.communicate(timeout=60)

    def undisturbed(self, name: str) -> dict[str, int]:
        """Run a command as it is; the number of its calls of each kind. Its outcome is kept in ``whole``."""
        (job,), (self.whole[name],) = self._run(name, [None])
        counts = json.loads(Path(f"{job['log']}.calls").read_text())
        assert self.whole[name].code == 0, self.whole[name]
        return dict(zip(CALLS, counts[1:], strict=True))

    def disturbed(self, name: str, faults: Sequence[Fault]) -> Iterator[tuple[Fault, Ended]]:
        """Run it under each of the faults."""
        for start in range(0, len(faults), BATCH):
            some = faults[start : start + BATCH]
            jobs, ended = self._run(name, some)
            yield from zip(some, ended, strict=True)
            for job in jobs:
                shutil.rmtree(job["home"], ignore_errors=True)

    def _run(self, name: str, faults: Sequence[Fault | None]) -> tuple[list[dict[str, Any]], list[Ended]]:
        jobs = [self._job(name, fault) for fault in faults]
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(jobs) + "\n")
        self._server.stdin.flush()
        codes = json.loads(self._server.stdout.readline())
        return jobs, [self._ended(job, code) for job, code in zip(jobs, codes, strict=True)]

    def _job(self, name: str, fault: Fault | None) -> dict[str, Any]:
        self._count += 1
        home = self.folder / "place" / f"home{self._count}"
        if not VERBS[name].begins_empty:
            shutil.copytree(self.whole["extract"].home.path, home)
            if name in ("prune", "results", "ls"):
                _use(home)
        place = str(self.folder / "place")
        number = (CALLS.index(fault.call) + 1, fault.number, fault.lasting, fault.error) if fault else (0, 0, 0, 0)
        job = {"log": str(self.folder / f"log{self._count}"), "inject": [place, *number], "home": str(home)}
        asked = VERBS[name].arguments(self.data, home)
        return {**job, "arguments": asked} if asked else {**job, "save": str(home)}

    def _ended(self, job: dict[str, Any], code: int) -> Ended:
        out, err = (Path(f"{job['log']}.{ending}").read_text() for ending in ("out", "err"))
        return Ended(code, out, err, LocalLocation(Path(job["home"])))


def _use(home: Path) -> None:
    """A result that names the features of the home; a reader's record and a pin that name none."""
    place = LocalLocation(home)
    nobody = {"path": "features/gone.zarr", "digest": "0" * 64, "who": "ben", "when": "2026-03-04T05:06:07Z"}
    place.publish("uses/ben.json", json.dumps([{**nobody, "host": "gpu7"}]).encode())
    place.publish("pins/000000000000-ben.json", json.dumps({**nobody, "why": "paper"}).encode())
    (root,) = home.glob("features/*/*/*.zarr/zarr.json")
    digest = json.loads(root.read_text())["attributes"]["deapcache"]["digest"]
    result = save_depth(LocalLocation(home))
    file = home / "results" / f"{result.run}.json"
    document = json.loads(file.read_text())
    document["caches"]["train"]["digest"] = digest
    file.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A small dataset, and commands on homes of it."""
    require(sys.platform == "linux" and shutil.which("gcc") is not None, "gcc, on Linux")
    folder = tmp_path_factory.mktemp("injected")
    library = folder / "injector.so"
    subprocess.run(["gcc", "-std=gnu11", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    images = folder / "place" / "data" / "birds" / "train" / "images"
    images.mkdir(parents=True)
    for number in (1, 2):
        Image.new("RGB", (32, 32), (80 * number, 0, 0)).save(images / f"{number}.png")
    made = Bench(folder, library)
    made.undisturbed("extract")
    yield made
    made.close()


def _faults(counts: dict[str, int], name: str) -> list[Fault]:
    """Every call, with the errors in turn, once and for good; where there are many calls these take turns, too."""
    both = sum(counts.values()) <= MOST_TWICE
    every = [
        Fault(call, number, lasting, ERRORS[(number // 2 + place + 2 * lasting) % len(ERRORS)])
        for place, (call, count) in enumerate(counts.items())
        for number in range(1, count + 1)
        for lasting in (False, True)
        if both or lasting == bool(number % 2)
    ]
    most = len(every) if EVERY else LONG_SAMPLE if LONG else SAMPLE
    return random.Random(name).sample(every, min(most, len(every)))


def _require_told(fault: Fault, ended: Ended, place: Path) -> None:
    """One line, with the path and the cause, that accuses nothing."""
    told = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert ended.code == 1
    assert len(told) == 1
    assert ended.err.rstrip().endswith(told[0])
    assert str(place) in told[0]
    assert os.strerror(fault.error) in told[0]


@pytest.mark.parametrize("name", VERBS)
def test_a_call_that_fails_is_survived_or_told(bench: Bench, tally: Tally, name: str) -> None:
    verb, counts = VERBS[name], bench.undisturbed(name)
    whole, place = bench.whole[name], bench.folder / "place"
    problems = []
    for fault, ended in bench.disturbed(name, _faults(counts, name)):
        with tally.fault(f"a system call that fails, in {name}", "nothing, or one line: which path, which cause"):
            pass
        try:
            assert "Traceback" not in ended.err
            undisturbed = ended.code == 0 and verb.is_right(ended, whole)
            said = (ended.err + ended.out * (not undisturbed)).replace(str(ended.home), "")
            assert not ACCUSING.search(said), ACCUSING.search(said)
            if ended.code != 0:
                _require_told(fault, ended, place)
            elif not undisturbed:  # the rest is shown, with a line on what could not be read
                assert re.search(
                    f"cannot (read|list|look at) {place}.*{os.strerror(fault.error)}", ended.err + ended.out
                ), "silent"
            if name == "extract":
                assert cache_bytes(ended.home).items() <= cache_bytes(whole.home).items(), "a key is another"
        except AssertionError as error:
            problems.append(f"{fault} → {ended.code}: {str(error).splitlines()[0]}\n{ended.err[-1500:]}")
    assert not problems, f"{len(problems)} of them:\n" + "\n".join(problems[:12])
