"""Real extractions in processes of their own, to be killed: imports once, then forks one for each line it reads.

A line is JSON: ``{"root", "home", "log"}``, and environment variables, starts an extraction and answers its process id;
``{"arguments", "log"}`` does so with the command line;
``{"wait": id}`` answers its exit code once it has ended, ``{"poll": id}`` answers ``running`` or ``ended``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import timm  # noqa: F401 - imported once here, not in every child

from deapcache.cache import reading  # noqa: F401
from deapcache.cli import main
from deapcache.datasets import open_dataset
from deapcache.extraction import ExtractionSettings, extract
from deapcache.locations import locate, stores

ENDED: dict[int, int] = {}


def write_to(log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


def command(arguments: list[str], log: str) -> None:
    write_to(log)
    main(arguments)


def run(root: str, home: str, log: str, **variables: str) -> None:
    os.environ.update(variables)
    write_to(log)
    dataset = open_dataset("coco", Path(root))
    settings = ExtractionSettings(batch_size=4)
    reports = extract(["efficientnet-lite0-s16"], dataset, locate(home), splits=["train"], settings=settings)
    print("DONE", sum(report.extracted for report in reports), flush=True)


def start(request: dict[str, Any]) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        (command if "arguments" in request else run)(**request)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        os._exit(code)


def end_of(process: int, flags: int = 0) -> bool:
    """Whether it has ended; its exit code is then in ``ENDED``."""
    if process not in ENDED:
        found, status = os.waitpid(process, flags)
        if found:
            ENDED[process] = os.waitstatus_to_exitcode(status)
    return process in ENDED


def answer(request: dict[str, Any]) -> object:
    if "wait" in request:
        end_of(request["wait"])
        return ENDED[request["wait"]]
    if "poll" in request:
        return "ended" if end_of(request["poll"], os.WNOHANG) else "running"
    return start(request)


if __name__ == "__main__":
    # More fails here than outside of tests: more retries, with shorter waits between.
    stores.RETRIES.update(max_retries=8, initial_seconds=0.01, most_seconds=0.05)
    for line in sys.stdin:
        print(answer(json.loads(line)), flush=True)
