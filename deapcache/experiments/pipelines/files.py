"""Where pipelines are: any file, or one of those that come with deapcache."""

from __future__ import annotations

import difflib
import importlib.resources
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

from deapcache.errors import PipelineError
from deapcache.experiments.pipelines.document import parse_document
from deapcache.experiments.pipelines.overrides import override
from deapcache.experiments.pipelines.pipeline import Pipeline
from deapcache.experiments.pipelines.schema import parse_pipeline

_ENDING = ".yaml"


def shipped_pipelines() -> dict[str, Traversable]:
    """Name → file of the pipelines that come with deapcache, by name."""
    inside = importlib.resources.files("deapcache") / "pipelines"
    # a checkout keeps them beside the package, where people look for them; a wheel has them within
    folder = inside if inside.is_dir() else Path(__file__).parents[3] / "pipelines"
    files = folder.iterdir() if folder.is_dir() else iter(())
    return {file.name.removesuffix(_ENDING): file for file in sorted(files, key=_name) if _name(file).endswith(_ENDING)}


def load_pipeline(name: str, settings: Sequence[str] = ()) -> Pipeline:
    """The pipeline in the file ``name``, or the shipped one of that name, with ``--set`` values put in.

    Raises :class:`PipelineError` where there is no such file or pipeline, and for whatever is wrong in it, and
    :class:`UsageError` for a setting without ``=``.
    """
    file = _find(name)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise PipelineError(f"{name}: cannot be read: {reason}; expected a pipeline in YAML") from None
    return parse_pipeline(override(parse_document(text, str(file)), settings))


def _find(name: str) -> Traversable:
    if Path(name).is_file() or "/" in name or name.endswith((_ENDING, ".yml")):
        if Path(name).exists():
            return Path(name)
        raise PipelineError(f"{name}: no such file; shipped pipelines by name: {', '.join(shipped_pipelines())}")
    shipped = shipped_pipelines()
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"shipped: {', '.join(shipped)};"
    raise PipelineError(f"unknown pipeline {name!r}: {hint} otherwise give a file such as ./{name}{_ENDING}")


def _name(file: Traversable) -> str:
    return file.name
