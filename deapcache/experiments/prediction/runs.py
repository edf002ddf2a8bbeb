"""A trained readout and the result that it belongs to, from what a user calls it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from deapcache.errors import ResultsError, UnknownNameError, UsageError
from deapcache.locations import Location, expanded, locate
from deapcache.recipe import FeatureRecipe
from deapcache.results import ReadoutFile, Result, load_readout_file, load_results
from deapcache.results.files import runs_in
from deapcache.results.record import readout_key

_FOLDER, _SUFFIX = "readouts/", ".safetensors"
_SHOWN = 5
"""Names that a message spells out."""


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """One run with its readouts at rest."""

    home: Location
    """Where it was found."""
    result: Result
    readouts: ReadoutFile

    @property
    def recipe(self) -> FeatureRecipe:
        """How the features that it was trained on were made."""
        return FeatureRecipe.from_json(self.result.caches["train"]["recipe"])


def find_run(home: Location, given: str) -> TrainedRun:
    """The run that ``given`` means: its name, a beginning that no other run of ``home`` has, or its readout's file.

    A file is ``HOME/readouts/RUN.safetensors``, a path or URL in any home. Raises :class:`UnknownNameError` with the
    nearest names, :class:`UsageError` for a beginning that several runs have, and :class:`ResultsError` where the
    readout or its result is not there, or damaged.
    """
    place, name = _of_file(given) if given.endswith(_SUFFIX) else (home, _whole_name(home, given))
    readouts = load_readout_file(place, name)
    return TrainedRun(home=place, result=load_results(place, [name])[0], readouts=readouts)


def _of_file(given: str) -> tuple[Location, str]:
    text = given if "://" in given else str(expanded(given).absolute())
    root, folder, name = text.rpartition(f"/{_FOLDER}")
    if not folder or "/" in name:
        raise UsageError(
            f"readout file {given}: expected HOME/{_FOLDER}RUN{_SUFFIX} as `deapcache probe` leaves it, "
            "beside HOME/results, which says what its features are"
        )
    return locate(root or "/"), name.removesuffix(_SUFFIX)


def _whole_name(home: Location, given: str) -> str:
    if home.exists(readout_key(given)):
        return given
    if not home.can_list:
        raise UnknownNameError(f"{home} has no readout {given!r}: it cannot be listed, so give the run's whole name")
    names = runs_in(home, _FOLDER.rstrip("/"), _SUFFIX)
    fitting = [name for name in names if name.startswith(given)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"{len(fitting)} runs in {home} begin with {given!r}: {_some(fitting)}; give more of the name")
    raise _unknown(home, given, names)


def _unknown(home: Location, given: str, names: list[str]) -> ResultsError | UnknownNameError:
    if not names:
        return ResultsError(f"{home} has no readouts: train one with `deapcache probe --task NAME --home {home}`")
    near = [name for name in names if given in name] or _alike(given, names)
    hint = f"near it are {_some(near)}" if near else f"there are {_some(names)}"
    return UnknownNameError(f"no run in {home} begins with {given!r}: {hint}")


def _alike(given: str, names: list[str]) -> list[str]:
    """The names whose beginning of that length looks like ``given``."""
    beginnings = {name[: len(given)] for name in names}
    near = difflib.get_close_matches(given, beginnings, n=3, cutoff=0.7)
    return [name for name in names if name[: len(given)] in near]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
