"""Processes that are started: scripts without a guard, parents that are killed, signals of terminals and schedulers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deapcache_faults import environment
from deapcache_testing import deapcache

from deapcache.errors import DeapcacheError
from deapcache.processes import UNGUARDED, process_pool, signals_interrupt

PATIENCE = 60.0
"""Seconds for what takes a few, on a machine that is busy."""


def python(arguments: list[str], folder: Path, **options) -> subprocess.CompletedProcess[str]:
    variables = environment(DEAPCACHE_HOME=str(folder / "home"), HOME=str(folder), XDG_CACHE_HOME=str(folder / "cache"))
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=variables, capture_output=True, text=True, timeout=2 * PATIENCE,
        check=False, **options,
    )  # fmt: skip


# scripts and their guard

EXTRACT = """
from pathlib import Path
import deapcache
print("from the top", flush=True)
dataset = deapcache.open_dataset("scenes", Path("data"))
settings = deapcache.ExtractionSettings(limit=8, storage="int8")
list(deapcache.extract(["timm:test_vit@untrained"], dataset, deapcache.home(), splits=["val"], settings=settings))
"""
READ = """
from pathlib import Path
from deapcache.datasets import open_dataset, workers
print("from the top", flush=True)
with workers(open_dataset("scenes", Path())) as pool:
    print(*pool.map(abs, [-3, 4]))
"""
SPEED = """
from deapcache.experiments.speed import measure_speeds
print("from the top", flush=True)
list(measure_speeds(["timm:test_vit@untrained"], device="cpu", batches=1, batch=1, failed=print))
"""

DOCTOR = """
from pathlib import Path
from deapcache.datasets import open_dataset
from deapcache.datasets.checking import SplitCheck, check_split
print("from the top", flush=True)
check_split(open_dataset("scenes", Path()), SplitCheck(split="val"), full=False, progress=print)
"""
SCRIPTS = {
    "extract": EXTRACT, "read": READ, "speed": SPEED, "check": DOCTOR,
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ("extract", "speed") else name for name in SCRIPTS]
)
def test_a_script_without_a_guard_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPTS[name])
    done = python(["script.py"], tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == f"deapcache.errors.UsageError: {UNGUARDED}"
    assert done.stderr.count("Traceback") == 1, "processes add nothing to it"
    assert not list(tmp_path.glob("voc*"))


def test_a_module_without_a_guard_is_refused(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(READ)
    done = python(["-m", "module"], tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(UNGUARDED)


@pytest.mark.slow
def test_a_script_that_starts_workers_without_a_guard_is_refused(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "from deapcache.extraction import open_cluster\nwith open_cluster(workers=1) as cluster:\n    print(cluster)\n"
    )
    done = python(["script.py"], tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {UNGUARDED}\n"), "the worker says why it ends"
    last = done.stderr.splitlines()[-1]
    assert "workers of this machine could not be started" in last
    assert 'put what the script does under `if __name__ == "__main__":`' in last


FOREIGN = """
import multiprocessing, deapcache
deapcache.probe("depth", dataset="scenes") if multiprocessing.current_process().name != "MainProcess" else None
child = multiprocessing.get_context("spawn").Process(target=print)
child.start()
child.join()
print(child.exitcode)
"""


def test_a_process_that_others_start_from_such_a_script_says_why_it_ends(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(FOREIGN)
    done = python(["script.py"], tmp_path)
    assert done.stderr.splitlines() == [f"error: {UNGUARDED}"]
    assert done.stdout == "89\n"


def guarded(script: str) -> str:
    return 'if __name__ == "__main__":\n' + "".join(f"    {line}\n" for line in script.strip().splitlines())


@pytest.mark.parametrize("way", ["a file", "-c", "standard input", "-", "a pipe"])
def test_what_has_a_guard_or_no_script_works(way: str, tmp_path: Path) -> None:
    if way == "a file":
        (tmp_path / "script.py").write_text(guarded(READ))
        done = python(["script.py"], tmp_path)
    elif way == "-c":
        done = python(["-c", READ], tmp_path)
    elif way == "a pipe":
        reading, writing = os.pipe()
        os.write(writing, READ.encode())
        os.close(writing)
        done = python([f"/dev/fd/{reading}"], tmp_path, pass_fds=[reading])
        os.close(reading)
    else:
        done = python(["-"] if way == "-" else [], tmp_path, input=READ)
    assert (done.returncode, done.stdout) == (0, "from the top\n3 4\n"), done.stderr


# parents that are killed


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def descendants(pid: int) -> list[int]:
    """Processes that this one started, and those that they started."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [each for child in found for each in descendants(child)]


def wait_until_gone(pids: list[int], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if is_running(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"processes were left behind: {left}")
        time.sleep(0.05)


@contextmanager
def started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that leads a session of its own, which no process of it outlives."""
    variables = environment(DEAPCACHE_HOME=str(folder / "home"), XDG_CACHE_HOME=str(folder / "cache"))
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=folder, env=variables, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_children(process: subprocess.Popen[str], count: int) -> list[int]:
    deadline = time.monotonic() + PATIENCE
    while len(found := descendants(process.pid)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no process was started"
        time.sleep(0.02)
    return found


POOL = """
import sys, threading, time
from deapcache.processes import process_pool
def start():
    pool = opened.__enter__()
    jobs = [pool.submit(*JOB) for _ in range(2)]
    if "at once" not in sys.argv:
        time.sleep(1.5)
    print("started", flush=True)
    [job.result() for job in jobs]
if __name__ == "__main__":
    opened = process_pool(2, "test")
    if "thread" in sys.argv:
        thread = threading.Thread(target=start, daemon=True)
        thread.start()
        thread.join()
    else:
        start()
"""
WAITING, LOCKED = "(time.sleep, 600)", "(sum, range(10**15))"
MOMENTS = {
    "waiting": (WAITING, []), "from a thread": (WAITING, ["thread"]), "at once": (WAITING, ["at once"]),
    "at once, from a thread": (WAITING, ["at once", "thread"]), "interpreter locked": (LOCKED, []),
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("moment", "number"),
    [*[(moment, signal.SIGKILL) for moment in MOMENTS], ("waiting", signal.SIGTERM), ("waiting", signal.SIGHUP)],
)
def test_processes_end_with_a_script_that_is_killed(moment: str, number: signal.Signals, tmp_path: Path) -> None:
    job, arguments = MOMENTS[moment]
    (tmp_path / "script.py").write_text(POOL.replace("*JOB", f"*{job}"))
    with started([sys.executable, "script.py", *arguments], tmp_path) as process:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        found = wait_for_children(process, 3)
        process.send_signal(number)
        assert process.wait(PATIENCE) == -number
        wait_until_gone(found)


CLUSTER = """
import sys, time
from deapcache.extraction import open_cluster
if __name__ == "__main__":
    with open_cluster(workers=1, device="cpu"):
        print("started", flush=True)
        time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_of_this_machine_end_with_a_script_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(CLUSTER)
    with started([sys.executable, "script.py"], tmp_path) as process:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        found = wait_for_children(process, 2)
        process.kill()
        process.wait()
        wait_until_gone(found)


def test_processes_outlive_the_thread_that_started_them() -> None:
    with process_pool(1, "test") as pool:
        thread = threading.Thread(target=lambda: pool.submit(abs, -1).result())
        thread.start()
        thread.join()
        time.sleep(0.3)
        assert pool.submit(abs, -2).result() == 2


def test_a_process_that_dies_is_told_in_one_line() -> None:
    def lose_one(function: Callable[..., object], *arguments: int) -> None:
        with process_pool(2, "reading x") as pool:
            other = pool.submit(time.sleep, 2)
            pool.submit(function, *arguments).result()
            other.result()

    with pytest.raises(DeapcacheError, match=r"^reading x: a process ended with exit code 3; what it printed"):
        lose_one(os._exit, 3)
    with pytest.raises(DeapcacheError, match=r"^reading x: a process was killed, as a rule since memory ran out"):
        lose_one(signal.raise_signal, signal.SIGKILL)


def test_an_interrupt_does_not_wait_for_what_is_under_way() -> None:
    def interrupted() -> None:
        with process_pool(1, "test") as pool:
            pool.submit(abs, 1).result()
            pool.submit(time.sleep, 600)
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 30


# signals to the command line

CHECK = deapcache("doctor", "--dataset", "scenes", "--full", "--json")
ENDS = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("number", "target"),
    [
        *[(number, "the process") for number in ENDS],
        *[(number, "all of its session") for number in ENDS],
        (signal.SIGTERM, "all, twice"),
    ],
)
def test_signals_end_a_command_and_its_processes(number: signal.Signals, target: str, tmp_path: Path) -> None:
    with started(CHECK, tmp_path) as process:
        found = wait_for_children(process, 2)
        time.sleep(1.0 if target == "the process" else 0.1)  # while they render, and while they are still starting
        if target == "the process":
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)
        if target == "all, twice":
            os.killpg(process.pid, signal.SIGHUP)
        _, said = process.communicate(timeout=PATIENCE)
        # of two at once the system may deliver either first
        assert process.returncode in ((143, 129) if target == "all, twice" else (ENDS[number],)), said
        assert "the same command begins anew" in said
        assert "Traceback" not in said
        assert "error:" not in said
        wait_until_gone(found)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_extraction_that_is_ended_goes_on(tmp_path: Path) -> None:
    command = deapcache(
        "extract", "--backbone", "timm:test_vit@untrained", "--dataset", "scenes", "--split", "val", "--limit", "4",
        "--home", tmp_path / "home", "--json",
    )  # fmt: skip
    with started(command, tmp_path) as process:
        found = wait_for_children(process, 2)
        time.sleep(1)
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 143, said
        assert "interrupted: everything published so far is whole and stays; run the same command again" in said
        wait_until_gone(found)
    assert not list((tmp_path / "home").rglob("claims/*.json")), "claims are given back"
    with started(command, tmp_path) as process:
        out, said = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 0, said
    assert '"images": 4' in out


def test_a_signal_interrupts_once() -> None:
    with signals_interrupt() as came:
        assert came() == 0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)  # the same request: cleaning up goes on
        assert came() == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_hangup_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with signals_interrupt() as came:
            signal.raise_signal(signal.SIGHUP)
            assert came() == 0
    finally:
        signal.signal(signal.SIGHUP, before)
