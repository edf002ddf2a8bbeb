"""The command ``deapcache``: its verbs, and how errors become one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import typer

from deapcache.cli import cache, listing
from deapcache.cli.console import err, note
from deapcache.cli.demo import demo_command
from deapcache.cli.doctor import doctor_command
from deapcache.cli.extract import extract_command
from deapcache.cli.figures import figures_command
from deapcache.cli.leaderboard import leaderboard_command
from deapcache.cli.plan import plan_command
from deapcache.cli.predict import predict_command
from deapcache.cli.probe import probe_command
from deapcache.cli.results import results_command
from deapcache.cli.run import run_command
from deapcache.cli.serve import index_command, serve_command
from deapcache.cli.speed import speed_command
from deapcache.cli.submit import submit_command
from deapcache.errors import DeapcacheError, UsageError
from deapcache.locations import redacted

app = typer.Typer(
    name="deapcache",
    help="Extract a vision backbone's dense features once; probe them many times with tiny attentive readouts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("extract")(extract_command)
app.command("probe")(probe_command)
app.command("predict")(predict_command)
app.command("results")(results_command)
app.command("leaderboard")(leaderboard_command)
app.command("figures")(figures_command)
app.command("run")(run_command)
app.command("plan")(plan_command)
app.command("speed")(speed_command)
app.command("submit")(submit_command)
app.command("demo")(demo_command)
app.command("doctor")(doctor_command)
app.add_typer(listing.app, name="list")
cache.app.command("serve")(serve_command)
cache.app.command("index")(index_command)
app.add_typer(cache.app, name="cache")


@app.command("scenes", hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def scenes_command() -> None:
    """What was `deapcache scenes export`: it says what to use instead."""
    raise UsageError(
        "`deapcache scenes export` is gone: give --dataset scenes, which needs no files; from Python "
        'deapcache.open_dataset("scenes", ".") gives the same images and annotations, to write in any layout'
    )


FAILURE = 1
USAGE = 2
INTERRUPTED = 130

_WITH_LESS_MEMORY = (
    "Take a smaller --batch-size; a probe needs less with fewer tasks, readouts and seeds at once, and with "
    "--residency stream. What was published before is whole and stays"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 ok, 1 failure, 2 usage, 130 interrupted.

    ``DEAPCACHE_TRACEBACK=1`` shows the traceback of an expected error, for bug reports.
    """
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        outcome = app(args=arguments, standalone_mode=False)
    except DeapcacheError as error:
        return _failed(error)
    except Exception as error:
        if _is_short_of_memory(error):
            return _failed(DeapcacheError(f"out of memory: {_first_sentences(error)}. {_WITH_LESS_MEMORY}"))
        # Typer carries its own copy of click; its usage errors are told by what they can do
        if not hasattr(error, "format_message"):
            raise
        return _misused(error)
    if outcome == INTERRUPTED:  # how Typer hands on Ctrl-C
        note("interrupted: everything published so far is whole and stays; run the same command again to go on")
    return outcome if isinstance(outcome, int) else 0


def _is_short_of_memory(error: Exception) -> bool:
    """Of a GPU's or the host's; torch is not imported for this, and has no class of its own for the host's."""
    host = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
    return host or type(error).__name__ == "OutOfMemoryError"


def _first_sentences(error: Exception) -> str:
    """What was asked for; torch goes on with advice on its allocator."""
    return ". ".join(str(error).partition("\n")[0].split(". ")[:2]).rstrip(".") or type(error).__name__


def _failed(error: DeapcacheError) -> int:
    if os.environ.get("DEAPCACHE_TRACEBACK") == "1":
        err.print(redacted(traceback.format_exc()), markup=False, highlight=False)
    err.print(f"error: {error}", markup=False, style="red")
    return USAGE if isinstance(error, UsageError) else FAILURE


def _misused(error: Exception) -> int:
    show = getattr(error, "show", None)
    if show is not None:
        show()
    return int(getattr(error, "exit_code", USAGE))
