"""The registries of backbones, datasets, tasks and readouts, and the plugins that add to them.

A plugin is a file, named by the environment variable ``DEAPCACHE_PLUGINS`` (several: separated as in ``PATH``) or with
``--plugin``, which adds to that variable, so that processes started from here load the same files; or a module that an
installed package names in the entry-point group ``deapcache.plugins``. Plugins run when a registry is first asked for
anything. Running one is running its code; nothing else in deapcache runs code that came with data.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from deapcache.errors import DeapcacheError, PluginError, UnknownNameError, UsageError, did_you_mean
from deapcache.locations.addresses import expanded

VARIABLE = "DEAPCACHE_PLUGINS"
ENTRY_POINT_GROUP = "deapcache.plugins"
Entry = TypeVar("Entry")

_LISTED = 20
"""Most names that an error lists."""

_PREFIX = "deapcache_plugin_"
_SOURCE = "__deapcache_source__"
"""Attribute of a plugin's module: sha256 of the bytes that were run."""


class Registry(Generic[Entry]):
    """Names and their entries, filled when first asked.

    Parameters
    ----------
    kind
        What is registered, in the singular, for error messages: ``"backbone"``.
    modules
        Modules that call :meth:`add` when imported; they are imported on first use only.

    Plugins are run on first use as well, and may add to any registry.
    """

    def __init__(self, kind: str, *, modules: Sequence[str] = ()) -> None:
        self.kind = kind
        self._modules = tuple(modules)
        self._entries: dict[str, Entry] = {}
        self._modules_of: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        self._filled = False

    def add(self, name: str, entry: Entry, *, replaces: Entry | None = None) -> Entry:
        """Register ``entry`` as ``name``; raises :class:`UsageError` where the name is taken.

        By ``replaces`` alone it may be: a notebook runs its cells again.
        """
        if _running:
            self._fill_own()  # its own names come first: where a plugin takes one, the plugin is at fault
        if name in self._entries and (replaces is None or self._entries[name] is not replaces):
            raise UsageError(f"{self.kind} {name!r} is registered twice; choose another name")
        self._entries[name] = entry
        self._modules_of[name] = sys._getframe(1).f_globals["__name__"]
        # a plugin may be the first to import deapcache's own modules, which are no part of it
        if _running and self._modules_of[name] not in self._modules:
            self._sources[name] = source_of_caller()[1]
        return entry

    __setitem__ = add

    def get(self, name: str) -> Entry:
        """The entry of that name; raises :class:`UnknownNameError` that offers the nearest names."""
        self._fill()
        try:
            return self._entries[name]
        except KeyError:
            hint = did_you_mean(name, self._entries)
            if not hint and len(self._entries) <= _LISTED:
                hint = f"known: {', '.join(self._entries)}"
            elif not hint:
                hint = f"nearest are {', '.join(difflib.get_close_matches(name, self._entries, n=3, cutoff=0))}"
            plural = f"{self.kind}s"
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}: {hint} (`deapcache list {plural}` shows all)"
            ) from None

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        self._fill()
        return list(self._entries)

    def source(self, name: str) -> str:
        """``sha256:…`` of the plugin's file that registered ``name``; empty for one of deapcache's own."""
        self._fill()
        return self._sources.get(name, "")

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        self._fill()
        return iter(list(self._entries.items()))

    def __contains__(self, name: object) -> bool:
        self._fill()
        return name in self._entries

    def _fill(self) -> None:
        self._fill_own()
        load()

    def _fill_own(self) -> None:
        if not self._filled:
            self._filled = True
            for module in self._modules:
                importlib.import_module(module)
            # in this order, whichever of the modules was imported first
            place = {module: number for number, module in enumerate(self._modules)}
            order = sorted(self._entries, key=lambda name: place.get(self._modules_of[name], len(place)))
            self._entries = {name: self._entries[name] for name in order}


_lock = threading.RLock()
_running: list[str] = []
"""The plugins being run, the innermost last."""


_all_run_of: str | None = None
"""The variable whose plugins were all run; ``None`` before the first time."""
_were_run: dict[str, PluginError | None] = {}
"""With how each failed: a second run of a plugin that registered half of its names would fail for another reason."""


def use(files: Sequence[str | Path]) -> None:
    """Run these plugin files, and hand them on to processes started from here.

    Raises :class:`UsageError` for a file that is not there and :class:`PluginError` for one that fails.
    """
    before, known = os.environ.get(VARIABLE), plugin_files()
    wanted = dict.fromkeys(_check_file(Path(file)) for file in files)
    if added := [file for file in wanted if file not in known]:
        os.environ[VARIABLE] = os.pathsep.join(map(str, (*known, *added)))
    try:
        load()
    except DeapcacheError:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before
        raise


def plugin_files() -> list[Path]:
    """The plugin files of this process, absolute, in the order in which they are run."""
    named = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    return list(dict.fromkeys(_absolute(Path(part)) for part in named))


def load() -> None:
    """Run the plugins that were not run yet; raises what :func:`use` raises, again at each call for one that failed."""
    global _all_run_of
    with _lock:
        variable = os.environ.get(VARIABLE, "")
        if _running or _all_run_of == variable:  # running: a plugin that looks something up
            return
        for entry_point in entry_points(group=ENTRY_POINT_GROUP):
            _run_once(f"entry point {entry_point.value}", partial(_load_entry_point, entry_point))
        for file in plugin_files():
            _run_once(_module_name(file), partial(_import_file, file))
        _all_run_of = variable


def source_of_caller() -> tuple[Path, str]:
    """The source file of whoever called the caller of this function, and ``sha256:…`` of its bytes when it was run.

    Raises :class:`UsageError` where it is no file, as in an interactive session.
    """
    module = sys._getframe(2).f_globals
    file = module.get("__file__")
    if not file:
        raise UsageError("this can be called from a file alone, not from a notebook or prompt: its source is recorded")
    digest = module.get(_SOURCE) or hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return Path(file), f"sha256:{digest}"


def explain(error: BaseException, file: str = "") -> str:
    """``my_backbone.py, line 12: NameError: name 'x' is not defined``: where in ``file`` an error came about.

    Without ``file``: in whichever file it was raised.
    """
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames.append((error.filename or "", error.lineno))
    inside = [(name, line) for name, line in frames if not file or name == file]
    name, line = inside[-1] if inside else (file, None)
    text = (error.msg if isinstance(error, SyntaxError) else str(error)).strip().replace("\n", " ")
    what = text if isinstance(error, DeapcacheError) else f"{type(error).__name__}: {text}"
    return f"{name}{'' if line is None else f', line {line}'}: {what}"


def _run_once(name: str, run: Callable[[], None]) -> None:
    if name not in _were_run:
        try:
            run()
            _were_run[name] = None
        except PluginError as error:
            _were_run[name] = error
    if (failure := _were_run[name]) is not None:
        raise failure


def _import_file(file: Path) -> None:
    importlib.import_module(_module_name(_check_file(file)))


def _load_entry_point(entry_point: EntryPoint) -> None:
    with _as_running(f"entry point {entry_point.name}"):
        try:
            entry_point.load()
        except Exception as error:
            raise PluginError(f"plugin {entry_point.name} ({entry_point.value}): {explain(error)}") from error


def _check_file(file: Path) -> Path:
    path = _absolute(file)
    if not path.is_file() or path.suffix != ".py":
        raise UsageError(f"plugin {file}: {'not a .py file' if path.is_file() else 'no such file'}; give a Python file")
    return path


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(expanded(path)))  # noqa: PTH100 - resolve() would follow links


def _module_name(file: Path) -> str:
    """A module name that belongs to this file alone, the same in all processes."""
    stem = re.sub(r"\W", "_", file.stem)
    return f"{_PREFIX}{stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"


@contextmanager
def _as_running(plugin: str) -> Iterator[None]:
    _running.append(plugin)
    try:
        yield
    finally:
        _running.pop()


class _Loader(importlib.abc.Loader):
    """Runs a plugin file: its bytes are read once, so that the digest is of what was run."""

    def __init__(self, file: Path) -> None:
        self._file = str(file)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        with _as_running(self._file):
            try:
                source = Path(self._file).read_bytes()
                setattr(module, _SOURCE, hashlib.sha256(source).hexdigest())
                exec(compile(source, self._file, "exec"), module.__dict__)
            except Exception as error:
                raise PluginError(f"plugin {explain(error, self._file)}") from error


class _Finder(importlib.abc.MetaPathFinder):
    """Finds plugin files by their module names: what was pickled with a plugin's class finds it in another process."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(_PREFIX):
            return None
        for file in plugin_files():
            if _module_name(file) == fullname:
                return importlib.util.spec_from_file_location(fullname, file, loader=_Loader(file))
        return None


sys.meta_path.append(_Finder())
