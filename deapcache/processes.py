"""Starting processes that end with the one that started them, and that leave signals of a terminal to it.

Children are spawned: a forked child of a process that runs torch's threads may hang. Spawning runs the main script
again in each child, so a script must do its work under ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from deapcache.errors import DeapcacheError, UsageError
from deapcache.plugins import load  # noqa: F401 - with it a child finds the classes of plugins when it unpickles

GUARD = 'put what the script does under `if __name__ == "__main__":`'
UNGUARDED = f"this script starts processes, and each of them runs the script again from its top: {GUARD}"

_UNGUARDED_CODE = 89
"""Exit code of a child that was made to run an unguarded script again."""

_TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)
"""Sent to every process of a terminal at once; the one that the user started answers them for all."""

_PR_SET_PDEATHSIG = 1
_GRACE = 0.5
"""Seconds in which a signal that has ended a child reaches this process, too, where all of a job were sent it."""


def refuse_unguarded() -> None:
    """Refuse to work in a child that is still running the main script again, before it does what it was started for.

    Whatever starts processes, or waits for another process, calls this first. It does not return there: a child of
    :func:`process_pool` ends silently, and the pool raises :class:`UsageError` in the parent; one that others started
    (dask, a ``DataLoader``) says why it ends.
    """
    process = multiprocessing.current_process()
    if not getattr(process, "_inheriting", False):  # multiprocessing's own mark of a child that is being prepared
        return
    if not process.name.startswith(_Child.PREFIX):
        print(f"error: {UNGUARDED}", file=sys.stderr, flush=True)
    os._exit(_UNGUARDED_CODE)  # no traceback, and nothing printed twice


@contextlib.contextmanager
def process_pool(count: int, purpose: str) -> Iterator[ProcessPoolExecutor]:
    """A pool of ``count`` spawned processes; jobs that have not begun when the block is left are not done.

    The processes end when this process ends, however it ends. Ctrl-C kills them. Raises :class:`UsageError` for a
    script without a main guard, and :class:`DeapcacheError`, which begins with ``purpose``, where a process died.
    """
    refuse_unguarded()
    context = _Context()
    with spawning():
        pool = ProcessPoolExecutor(count, mp_context=context)
    try:
        yield pool
    except BrokenProcessPool:
        pool.shutdown(wait=True)
        time.sleep(_GRACE)
        raise _death_error(purpose, [child.exitcode for child in context.children]) from None
    except KeyboardInterrupt:
        for child in context.children:
            child.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _death_error(purpose: str, codes: list[int | None]) -> DeapcacheError:
    if _UNGUARDED_CODE in codes:
        return UsageError(UNGUARDED)
    # a broken pool ends its other processes by SIGTERM
    failed = [code for code in codes if code is not None and code > 0]
    if failed:
        return DeapcacheError(f"{purpose}: a process ended with exit code {failed[0]}; what it printed says why")
    return DeapcacheError(f"{purpose}: a process was killed, as a rule since memory ran out")


def follow_parent(*, by_kernel: bool = False) -> None:
    """End this process, a child of ``multiprocessing``, when its parent has ended; terminal signals are ignored.

    ``by_kernel`` asks Linux to kill it, which works in any state. The kernel means the thread that started the
    process, so that thread must live as long as the parent: be its main thread.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    for number in _TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_after, args=(parent,), name="deapcache-parent", daemon=True).start()
    if by_kernel and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library without prctl
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent.pid:  # it ended before the kernel was asked
            os._exit(1)


def _exit_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def spawning() -> Iterator[None]:
    """For a block that spawns: a main script that is no file is not run again, and no hangup ends Python's own helper.

    The script may be on standard input. The helper is the process that ``multiprocessing`` starts to remember
    semaphores; the one thing of a terminal that it does not ignore is SIGHUP.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # a process inherits what its parent blocks
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or getattr(main, "__spec__", None) is not None or Path(file).is_file():
        yield
        return
    del main.__file__  # as in an interactive session, where children run no main script
    try:
        yield
    finally:
        main.__file__ = file


class _Child(SpawnProcess):
    """A spawned process that ends with its parent."""

    PREFIX = "deapcache-process-"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.name = f"{self.PREFIX}{self.name}"
        self._by_kernel = False

    def start(self) -> None:
        self._by_kernel = threading.current_thread() is threading.main_thread()
        # blocked in the child from its first instant; what arrives meanwhile reaches this process after the block
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL_SIGNALS)
        try:
            with spawning():
                super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def run(self) -> None:
        follow_parent(by_kernel=self._by_kernel)
        super().run()


class _Context(SpawnContext):
    """Starts :class:`_Child` processes and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[_Child] = []

    def Process(self, *arguments: Any, **options: Any) -> _Child:  # type: ignore[override]  # noqa: N802 - the library's name
        child = _Child(*arguments, **options)
        self.children.append(child)
        return child


class TerminatedError(KeyboardInterrupt):
    """A signal other than Ctrl-C asked this process to end; handled wherever Ctrl-C is."""


@contextlib.contextmanager
def signals_interrupt() -> Iterator[Callable[[], int]]:
    """In the block SIGTERM and SIGHUP interrupt the main thread as Ctrl-C does, so that everything is cleaned up.

    Gives a function that returns the number of the signal that came, 0 if none did. A signal that is ignored (nohup)
    or handled already stays so. A second signal within a second is the same request: systemd sends both at once.
    """
    came: list[int] = []
    when = -1.0

    def interrupt(number: int, _: object) -> None:
        nonlocal when
        repeated = time.monotonic() - when < 1 and bool(came)
        came.append(number)
        when = time.monotonic()
        if not repeated:
            raise TerminatedError(signal.Signals(number).name)

    taken = [signal.SIGTERM, signal.SIGHUP] if threading.current_thread() is threading.main_thread() else []
    taken = [number for number in taken if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield lambda: came[0] if came else 0
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
