"""The command ``deapcache``: its verbs, and how errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from deapcache.cli import cache, listing
from deapcache.cli.compare import compare_command
from deapcache.cli.console import FAILURE, INTERRUPTED, completed, err, note, out, robust_streams
from deapcache.cli.doctor import doctor_command
from deapcache.cli.extract import extract_command
from deapcache.cli.figures import figures_command
from deapcache.cli.import_labels import import_command
from deapcache.cli.options import App
from deapcache.cli.plan import plan_command, speed_command
from deapcache.cli.predict import predict_command
from deapcache.cli.probe import correspondence_command, probe_command
from deapcache.cli.results import leaderboard_command, results_command, submit_command
from deapcache.cli.run import demo_command, run_command
from deapcache.errors import DeapcacheError, UsageError
from deapcache.locations import redacted
from deapcache.locations.files import advice
from deapcache.machine import versions
from deapcache.processes import signals_interrupt
from deapcache.untrusted import printable

app = App(
    name="deapcache",
    help="Extract a vision backbone's dense features once; probe them many times with tiny attentive readouts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"deapcache {versions('deapcache').get('deapcache', 'of a source folder, not installed')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.command("import")(import_command)
app.command("extract")(extract_command)
app.command("probe")(probe_command)
app.command("correspondence")(correspondence_command)
app.command("predict")(predict_command)
app.command("results")(results_command)
app.command("leaderboard")(leaderboard_command)
app.command("figures")(figures_command)
app.command("compare")(compare_command)
app.command("run")(run_command)
app.command("plan")(plan_command)
app.command("speed")(speed_command)
app.command("submit")(submit_command)
app.command("demo")(demo_command)
app.command("doctor")(doctor_command)
app.add_typer(listing.app, name="list")
app.add_typer(cache.app, name="cache")


USAGE = 2
"""Exit code."""

_WITH_LESS_MEMORY = (
    "Take a smaller --batch-size; a probe needs less with fewer tasks, readouts and seeds at once, and with "
    "--residency stream. What was published before is whole and stays"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 ok, 1 failure, 2 usage, 130 interrupted (143 by SIGTERM, 129 by SIGHUP).

    ``DEAPCACHE_TRACEBACK=1`` shows the traceback of an expected error, for bug reports.
    """
    with robust_streams() as output, signals_interrupt() as signal_that_came:
        code: int | str | None
        try:
            code = _run(arguments, signal_that_came)
            sys.stdout.flush()
        except SystemExit as end:
            code = end.code
        except KeyboardInterrupt:  # before a verb began, or once more while it was ending
            code = _report_interruption()
        if code == INTERRUPTED and (number := signal_that_came()):
            code = 128 + number  # as shells give it
        failure = output.failure if output is not None else None
        if failure is not None and failure.errno != errno.EPIPE:  # a reader that closed the pipe had enough
            # a script must not take what a full disk took of stdout for the whole
            lost = "what the command made stays, what it had to show is lost"
            note(f"error: stdout cannot be written: {failure.strerror}; {lost}")
            code = (code if isinstance(code, int) else FAILURE) or FAILURE
    sys.exit(code)


def _warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    """A warning in one line, as errors are: where in the code it was raised says nothing to a user."""
    kind = "" if issubclass(category, UserWarning) else f"{category.__name__}: "
    return f"warning: {kind}{printable(redacted(completed(str(message))))}\n"


def _run(arguments: Sequence[str] | None, signal_that_came: Callable[[], int]) -> int:
    warnings.formatwarning = _warning
    try:
        outcome = app(args=arguments, standalone_mode=False)
    except DeapcacheError as error:
        # children and workers of a job that is told to end die at the same time: that is no failure of theirs
        return _report_interruption() if signal_that_came() else _report_error(error)
    except Exception as error:
        if signal_that_came():
            return _report_interruption()
        # torch is not imported for this, and has no class for the host's memory
        host = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        if host or type(error).__name__ == "OutOfMemoryError":
            # the size is in the first sentences; torch goes on with advice on its allocator
            size = ". ".join(str(error).partition("\n")[0].split(". ")[:2]).rstrip(".") or type(error).__name__
            return _report_error(DeapcacheError(f"out of memory: {size}. {_WITH_LESS_MEMORY}"))
        if isinstance(error, OSError) and error.filename and error.strerror:  # the path and the cause are all there is
            return _report_error(DeapcacheError(f"{error.filename}: {error.strerror}; {advice(error)}"))
        # Typer carries its own copy of click; its usage errors are known by what they can do
        if not hasattr(error, "format_message"):
            raise
        if show := getattr(error, "show", None):
            show()
        return int(getattr(error, "exit_code", USAGE))
    if outcome == INTERRUPTED:  # how Typer hands on Ctrl-C
        return _report_interruption()
    return outcome if isinstance(outcome, int) else 0


def _report_interruption() -> int:
    with contextlib.suppress(OSError):  # SIGHUP: the terminal is gone
        note("interrupted: everything published so far is whole and stays; run the same command again to go on")
    return INTERRUPTED


def _report_error(error: DeapcacheError) -> int:
    if os.environ.get("DEAPCACHE_TRACEBACK") == "1":
        err.print(redacted(traceback.format_exc()))
    err.print(completed(f"error: {error}"), style="red")
    return USAGE if isinstance(error, UsageError) else FAILURE
