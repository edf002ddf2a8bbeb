"""A pipeline's YAML as plain values, with the place of each, so that an error can point at it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from deapcache.errors import PipelineError
from deapcache.untrusted import LARGEST_WHOLE

_MOST_VALUES = 100_000
_WHOLE_NUMBER = "tag:yaml.org,2002:int"

KeyPath = tuple[str | int, ...]
"""Where a value stands: ``("probes", 0, "limit")``, written ``probes.0.limit``."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """What a file says, before anybody looked at its meaning."""

    source: str
    """The file, for errors."""
    value: Any
    places: Mapping[KeyPath, str]
    """Where a value comes from: ``line 7``, or the ``--set`` that put it there."""

    def error(self, path: KeyPath, problem: str) -> PipelineError:
        """The error that says which file, which line, which key, and what is wrong there."""
        known = next((self.places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.places), "")
        where = f"{self.source}, {known}" if known else self.source
        return PipelineError(f"{where}: {written(path)}: {problem}" if path else f"{where}: {problem}")


def written(path: KeyPath) -> str:
    """``probes.0.limit``."""
    return ".".join(str(part) for part in path)


def unknown_key(name: object, known: Iterable[str]) -> str:
    """What to say of a key that nothing reads; offers the nearest."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown key {name!r}: {hint}known here: {', '.join(names)}"


def shown(value: Any) -> str:
    """A value that was found, for errors: short, and in the words of YAML."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def parse_document(text: str, source: str) -> Document:
    """Read YAML (its safe subset: text, numbers, lists, mappings).

    Raises :class:`PipelineError` with file and line for text that is no YAML, and for a key that stands twice in one
    mapping, of which YAML readers keep the last without a word.
    """
    node, value = read_yaml(text, source)
    places: dict[KeyPath, str] = {}
    if node is not None:
        _note_places(node, (), places, set(), source)
    return Document(source=source, value=value, places=places)


def read_yaml(text: str, source: str) -> tuple[yaml.Node | None, Any]:
    """YAML as nodes and as plain values, within what a pipeline can need; raises :class:`PipelineError`."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        if _values(node, {}, loader, source) > _MOST_VALUES:
            raise PipelineError(
                f"{source}: holds more than {_MOST_VALUES:,} values once its aliases (*name) are written out: write "
                "what is meant without them"
            )
        return node, loader.construct_document(node)
    except yaml.YAMLError as error:
        raise PipelineError(_explain(error, source)) from None
    except PipelineError:
        raise
    except (ValueError, RecursionError) as error:  # such as the date 2024-99-99
        raise PipelineError(f"{source}: is no YAML that can be read: {error}") from None


def _values(node: yaml.Node, known: dict[int, int], loader: yaml.SafeLoader, source: str) -> int:
    """How many values a node stands for, each alias counted as what it repeats; refuses numbers beyond int64."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = _MOST_VALUES  # while it is counted: what holds itself has no end
    if isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    else:
        inner = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.ScalarNode) and node.tag == _WHOLE_NUMBER and _is_huge(node, loader):
        raise PipelineError(
            f"{source}, {_line(node.start_mark)}: a number of {len(node.value):,} characters is larger than any that "
            f"is meant: at most {LARGEST_WHOLE:,} is possible"
        )
    known[id(node)] = 1 + sum(_values(each, known, loader, source) for each in inner)
    return known[id(node)]


def _is_huge(node: yaml.ScalarNode, loader: yaml.SafeLoader) -> bool:
    return len(node.value) > 100 or abs(loader.construct_yaml_int(node)) > LARGEST_WHOLE


def _note_places(node: yaml.Node, path: KeyPath, places: dict[KeyPath, str], seen: set[int], source: str) -> None:
    if id(node) in seen:  # an alias: noted where its anchor stands, which also ends a value that contains itself
        return
    seen.add(id(node))
    places.setdefault(path, _line(node.start_mark))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_places(item, (*path, index), places, seen, source)
    if isinstance(node, yaml.MappingNode):
        for key, item in node.value:
            inner = (*path, str(key.value))
            if inner in places:
                raise PipelineError(
                    f"{source}, {_line(key.start_mark)}: {written(inner)} is there twice (first on {places[inner]}): "
                    "remove one of the two"
                )
            places[inner] = _line(key.start_mark)
            _note_places(item, inner, places, seen, source)


def _line(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}"


def _explain(error: yaml.YAMLError, source: str) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    where = f"{source}, {_line(mark)}" if mark else source
    return f"{where}: is no YAML that can be read: {problem}; names and numbers stand as `key: value` or `key: [a, b]`"
