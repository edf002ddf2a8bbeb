"""Runs the command line under injected faults: imports everything once, then forks one process for each job.

Each line it reads is a JSON list of jobs, and is answered by the list of their exit codes once all have ended. A job is
``{"arguments", "log", "inject"}``, the last one being the arguments of ``inject_arm`` in ``injector.c``, which is
preloaded; ``{"save": home, ...}`` saves a run through the library instead. Beside ``LOG.out`` and ``LOG.err`` is
``LOG.calls``: how many calls there were of each kind.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import signal
import sys
from pathlib import Path
from typing import Any

import timm  # noqa: F401
from deapcache_results import save_depth

import deapcache
from deapcache.cli import main
from deapcache.errors import DeapcacheError
from deapcache.locations import locate

INJECTOR = ctypes.CDLL(os.environ["LD_PRELOAD"])
KINDS = 11
MOST_SECONDS = 300
ABREAST = len(os.sched_getaffinity(0))


def work(job: dict[str, Any]) -> int:
    if "arguments" in job:
        main(job["arguments"])
    try:
        save_depth(locate(job["save"]))
    except DeapcacheError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def start(job: dict[str, Any]) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    for handle, ending in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{job['log']}.{ending}", os.O_WRONLY | os.O_CREAT), handle)
    signal.alarm(MOST_SECONDS)  # one that hangs is told as killed
    under, kind, number, lasting, error = job["inject"]
    try:
        INJECTOR.inject_arm(under.encode(), kind, ctypes.c_long(number), lasting, error)
        code = work(job)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        Path(f"{job['log']}.calls").write_text(json.dumps([INJECTOR.inject_calls(each) for each in range(KINDS)]))
        os._exit(code)


def run(jobs: list[dict[str, Any]]) -> list[int]:
    """The exit codes, some jobs at a time."""
    codes: dict[int, int] = {}
    order: list[int] = []
    for job in jobs:
        order.append(start(job))
        if len(order) - len(codes) >= ABREAST:
            wait(codes)
    while len(codes) < len(order):
        wait(codes)
    return [codes[process] for process in order]


def wait(codes: dict[int, int]) -> None:
    process, status = os.wait()
    codes[process] = os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    for module in pkgutil.walk_packages(deapcache.__path__, "deapcache."):
        try:
            importlib.import_module(module.name)
        except ImportError:  # of an extra that is not installed
            continue
    gc.freeze()  # a fork then copies less
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
