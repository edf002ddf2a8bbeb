"""The small files of a home, which anybody may have written or half copied: which count, and what is in them."""

from __future__ import annotations

import re
import warnings
from typing import Any

from pydantic import TypeAdapter, ValidationError

from deapcache.errors import NotAFileError, ResultsError
from deapcache.locations import Location
from deapcache.untrusted import first_problem, is_hidden, parse_json

MOST_BYTES = 4_000_000
"""Of a result, a speed and the like; a result with a thousand class names has about 50,000."""

_RUN = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9._@-]*-[0-9a-f]{12}")
"""How :func:`deapcache.results.record.run_id` names a run."""
_NAMED = 5


def files_in(home: Location, folder: str, ending: str) -> list[str]:
    """Names, without ``ending``, of the files that lie in a folder of the home itself and have that ending; sorted.

    Those in folders below do not count, with a warning.
    """
    found = keys_below(home, folder, ending)
    warn_of_strays(home, [key for key in found if key.count("/") > 1], f"only files in {folder}/ itself are")
    return [key.removeprefix(f"{folder}/").removesuffix(ending) for key in found if key.count("/") == 1]


def keys_below(home: Location, folder: str, ending: str) -> list[str]:
    """The keys anywhere below a folder that have that ending, but for hidden ones.

    File managers, editors and programs that synchronise leave names with a dot in front: ``._NAME``,
    ``.ipynb_checkpoints/NAME``.
    """
    return [key for key in home.keys(folder) if key.endswith(ending) and not is_hidden(key)]


def runs_in(home: Location, folder: str, ending: str) -> list[str]:
    """The names of :func:`files_in` that are names of runs; others, such as copies, are left out with a warning."""
    names = files_in(home, folder, ending)
    strays = [f"{folder}/{name}{ending}" for name in names if not _RUN.fullmatch(name)]
    warn_of_strays(home, strays, "its name is not that of a run")
    return [name for name in names if _RUN.fullmatch(name)]


def warn_of_strays(home: Location, keys: list[str], why: str) -> None:
    """One warning that names files which are not counted; none where there are none."""
    if keys:
        more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        warnings.warn(f"not counted in {home}: {', '.join(keys[:_NAMED])}{more}: {why}; move it away", stacklevel=4)


class SchemaError(ValueError):
    """A document was written by another version."""


def read_checked(home: Location, key: str, model: TypeAdapter[Any], *, schema: int, again: str) -> dict[str, Any]:
    """The JSON object ``key``, which ``model`` accepts; raises ``FileNotFoundError``.

    Raises :class:`ResultsError` that names the file, what is wrong with it, and how it is made ``again``.
    """
    try:
        return checked(home.read(key, most=MOST_BYTES), model, schema=schema)
    except SchemaError as error:
        raise ResultsError(f"{home}/{key} cannot be read: {error}: upgrade, or move the file away") from None
    except (NotAFileError, ValueError) as error:
        raise ResultsError(f"{home}/{key} is not what deapcache writes: {error}; delete it, or {again}") from None


def checked(data: bytes, model: TypeAdapter[Any], *, schema: int) -> dict[str, Any]:
    """The JSON object in ``data``, as it is, where ``model`` accepts it; raises ``ValueError`` that says why not."""
    document = parse_json(data)
    found = document.get("schema") if isinstance(document, dict) else None
    if type(found) is int and found != schema:
        raise SchemaError(f"its schema is {found}, this deapcache reads {schema}")
    try:
        model.validate_json(data, strict=True)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
    return dict(document)
