"""One registry pattern for backbones, datasets, tasks and readouts: name → entry."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from deapcache.errors import UnknownNameError, UsageError
from deapcache.plugins import load as load_plugins
from deapcache.plugins import running, source_of_caller

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Names and their entries, filled when first asked.

    Parameters
    ----------
    kind
        What is registered, in the singular, for error messages: ``"backbone"``.
    modules
        Modules that call :meth:`add` when imported; they are imported on first use only.
    entry_point_group
        Installed packages may name further such modules in this entry-point group.

    Plugins (:mod:`deapcache.plugins`) are run on first use as well, and may add to any registry.
    """

    def __init__(self, kind: str, *, modules: Sequence[str] = (), entry_point_group: str = "") -> None:
        self.kind = kind
        self._modules = tuple(modules)
        self._entry_point_group = entry_point_group
        self._entries: dict[str, Entry] = {}
        self._sources: dict[str, str] = {}
        self._filled = False

    def add(self, name: str, entry: Entry) -> Entry:
        """Register ``entry`` as ``name``; raises :class:`UsageError` where the name is taken."""
        if running():
            self._fill_own()  # its own names come first: where a plugin takes one, the plugin is at fault
        if name in self._entries:
            raise UsageError(f"{self.kind} {name!r} is registered twice; choose another name")
        self._entries[name] = entry
        # a plugin may be the first to import deapcache's own modules, which are no part of it
        if running() and sys._getframe(1).f_globals["__name__"] not in self._modules:
            self._sources[name] = source_of_caller().digest
        return entry

    __setitem__ = add

    def get(self, name: str) -> Entry:
        """The entry of that name; raises :class:`UnknownNameError` that offers the nearest names."""
        self._fill()
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(self._explain_unknown(name)) from None

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
        load_plugins()

    def _fill_own(self) -> None:
        if self._filled:
            return
        self._filled = True
        for module in self._modules:
            importlib.import_module(module)
        if self._entry_point_group:
            for entry_point in entry_points(group=self._entry_point_group):
                entry_point.load()

    def _explain_unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._entries, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(self._entries)}"
        plural = f"{self.kind}s"
        return f"unknown {self.kind} {name!r}: {hint} (`deapcache list {plural}` shows all)"
