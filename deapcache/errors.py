"""Every error that deapcache raises on purpose.

Each class has one base, :class:`DeapcacheError`, and is also the builtin a caller would expect, so that
``except FileNotFoundError`` works. A message says what, where, what was expected, what was found and what to do next;
the command line prints it as it is, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path

LEAVE_OUT = "or leave out what cannot be read with --on-error skip"
"""How errors end that concern the files of one image."""


class DeapcacheError(Exception):
    """Base of all errors that deapcache raises on purpose."""

    def __str__(self) -> str:
        # KeyError would print the repr of the message, OSError its own format.
        return printable(str(self.args[0])) if self.args else ""


def printable(text: str) -> str:
    """``text`` with bytes of file names that are not UTF-8 as ``\\udcff``, so that it can be printed and stored."""
    return text.encode("utf-8", "backslashreplace").decode()


def first_line(error: Exception) -> str:
    """What an error says, in one line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(name: str, known: Iterable[str], *, n: int = 3, cutoff: float = 0.5, prefix: str = "") -> str:
    """``did you mean a or b?``, each with the ``prefix``; empty where none of the ``known`` is near ``name``."""
    near = difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)
    return f"did you mean {' or '.join(f'{prefix}{one}' for one in near)}?" if near else ""


def listed(names: Collection[str], conjunction: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``, of at least one name."""
    *first, last = names
    return f"{', '.join(first)} {conjunction} {last}" if first else last


class UsageError(DeapcacheError, ValueError):
    """An argument or option has a value that cannot be used."""


def require_choice(what: str, choice: str, allowed: Iterable[str]) -> None:
    """Raise :class:`UsageError` unless ``choice`` is one of the ``allowed`` values of ``what``."""
    if choice not in (known := tuple(allowed)):
        raise UsageError(f"unknown {what} {choice!r}: choose one of {', '.join(known)}")


class UnknownNameError(UsageError, LookupError):
    """A backbone, dataset, task or readout of that name is not registered."""


class PluginError(DeapcacheError, ImportError):
    """A plugin cannot be run, or what it registered does not work; names its file and line."""


class BundleError(DeapcacheError, ValueError):
    """A bundle of results is refused, or cannot be made."""


class PipelineError(UsageError):
    """A pipeline file does not say what it should."""


class LocationError(DeapcacheError, OSError):
    """A cache home or another location cannot be used as asked."""


class NotAFileError(LocationError):
    """What should be a file is a folder, a pipe or a device, or holds more than is read of such a file."""


class ReadOnlyError(LocationError, PermissionError):
    """A location that must be written to cannot be written."""


class UnreadableError(LocationError, PermissionError):
    """A file or folder may not be looked at: what is in it is not known."""


class StorageFullError(LocationError):
    """A location has too little free space, or ran out of it."""


class ClusterError(DeapcacheError, RuntimeError):
    """A Dask cluster cannot be reached, or its workers cannot do what was asked."""


class CacheMissError(DeapcacheError, FileNotFoundError):
    """No cache fits the request; the message says which recipe fields of the nearest ones differ."""


class CacheInUseError(LocationError):
    """A cache is not removed, since a run is at work on it."""


class AmbiguousCacheError(DeapcacheError, LookupError):
    """More than one cache fits the request; the message lists them and how they differ."""


class IncompleteCacheError(DeapcacheError, LookupError):
    """A cache lacks volumes that were asked for."""


class CorruptCacheError(DeapcacheError, OSError):
    """Bytes of a cache fail their checksum or do not follow the layout; names shard and image."""


class FormatVersionError(CorruptCacheError):
    """A cache was written in a format that this version does not read."""


class DatasetFileError(DeapcacheError):
    """What is wrong with a dataset's files."""

    def __init__(self, message: str = "", *, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path
        """The file that it is about, the first of several; None where it is about none alone."""


class MissingDataError(DatasetFileError, FileNotFoundError):
    """Files of a dataset are not where they are expected."""


class DataError(DatasetFileError, ValueError):
    """A file of a dataset is there but cannot be used as it is; names the file."""


class WeightsError(DeapcacheError, ValueError):
    """A checkpoint does not fit the architecture; lists the keys."""


class MissingWeightsError(WeightsError, FileNotFoundError):
    """Pretrained weights are not here and cannot be fetched; says how to provide them."""


class FeatureError(DeapcacheError, ArithmeticError):
    """A backbone gave features that must not be stored (NaN, infinite, beyond the storage range)."""


class TrainingError(DeapcacheError, ArithmeticError):
    """A readout's training diverged."""


class ResultsError(DeapcacheError, ValueError):
    """Results cannot be combined or read as asked."""
