"""Whether a dataset's files are all there and can be read, image by image."""

from __future__ import annotations

import functools
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from deapcache.annotations import get_annotation
from deapcache.datasets.base import Dataset, in_order, workers
from deapcache.datasets.io import access_error
from deapcache.errors import DeapcacheError

SAMPLE = 20
"""Images of a split that a quick check opens."""

_CHUNK = 256
"""Files that a thread looks at in one go."""

CheckProgress = Callable[[str, int, int], None]
"""Called with what is counted (``files`` or ``images``), how many are done and how many there are."""


@dataclass(kw_only=True)
class SplitCheck:
    """What a check of one split has come to so far: it stays true when the check is interrupted."""

    split: str
    images: int = 0
    """Images that the split lists."""
    folder: Path | None = None
    """Where the first of them lies; None where that is not known."""
    files: int = 0
    """Files looked at, without opening them: images and what their annotations are read from."""
    to_open: int = 0
    opened: int = 0
    """Images opened and decoded, with all their annotations."""
    problems: list[str] = field(default_factory=list)
    """One line each, which names the file."""


def check_split(dataset: Dataset, check: SplitCheck, *, full: bool, progress: CheckProgress) -> None:
    """List a split, look at all its files, and open every image and annotation (``full``) or those of a sample.

    Whatever is wrong becomes one of ``check.problems``: no :class:`DeapcacheError` and no ``OSError`` is raised. The
    rows of the sample are spread evenly over the split. A file is named once: not by its rows where the listing or the
    look at all files named it.
    """
    listing_error: Exception | None = None
    try:
        check.images = len(dataset.image_ids(check.split))
    except (DeapcacheError, OSError) as error:
        listing_error = error
        check.problems.append(one_line(error))
        dataset = dataset.tolerant()
        with suppress(DeapcacheError, OSError):  # the same again where the split cannot be listed at all
            check.images = len(dataset.image_ids(check.split))
    if not check.images and not check.problems:
        check.problems.append(f"{dataset.name}/{check.split} lists no image")
    listing_problem = check.problems[0] if listing_error else ""
    named = _check_files(dataset, check, getattr(listing_error, "path", None), progress)
    chosen = range(check.images) if full else sample_rows(check.images)
    check.to_open = len(chosen)
    with workers(dataset) as pool:
        for _, problems in in_order(pool, functools.partial(_read_problems, dataset, check.split), chosen):
            # a listing's error begins with the problem of its first sample
            new = [p for p, path in problems if path not in named and not listing_problem.startswith(p)]
            check.problems += new
            check.opened += 1
            progress("images", check.opened, check.to_open)


def sample_rows(images: int) -> Sequence[int]:
    """At most :data:`SAMPLE` of so many rows, spread evenly, the first and the last among them."""
    if images <= SAMPLE:
        return range(images)
    return [k * (images - 1) // (SAMPLE - 1) for k in range(SAMPLE)]


def _read_problems(dataset: Dataset, split: str, row: int) -> list[tuple[str, Path | None]]:
    """What is wrong with an image and its annotations, decoded whole: one line each, with the file that it is about."""
    problems: dict[str, Path | None] = {}
    size: tuple[int, ...] | None = None
    try:
        size = dataset.read_image(split, row).shape[:2]
    except (DeapcacheError, OSError) as error:
        problems[one_line(error)] = getattr(error, "path", None)
    for kind in dataset.annotations:
        try:
            shape = dataset.read_annotation(split, row, kind).shape
        except (DeapcacheError, OSError) as error:
            problems[one_line(error)] = getattr(error, "path", None)
            continue
        if size is None or get_annotation(kind).columns or shape[:2] == size:
            continue
        image = next(iter(dataset.row_files(split, row)), dataset.image_ids(split)[row])
        found = " x ".join(map(str, shape))
        problem = f"{image} has {size[0]} x {size[1]} pixels (height x width), its {kind} have {found}"
        problems[problem] = None
    return list(problems.items())


def one_line(error: Exception) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())


def _check_files(dataset: Dataset, check: SplitCheck, known: Path | None, progress: CheckProgress) -> set[Path]:
    """Look at the files of all rows, without opening them; those that are absent or empty.

    ``known`` is a file that was named already.
    """
    rows = range(check.images)
    paths = list(dict.fromkeys(path for row in rows for path in dataset.row_files(check.split, row)))
    check.folder = paths[0].parent if paths else None
    broken, told = set[Path](), set[str]()
    with ThreadPoolExecutor() as pool:
        chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
        for chunk, problems in in_order(pool, _file_problems, chunks):
            broken.update(problems)
            new = dict.fromkeys(problem for path, problem in problems.items() if path != known)
            check.problems += [problem for problem in new if problem not in told]
            told.update(new)
            check.files += len(chunk)
            progress("files", check.files, len(paths))
    return broken


def _file_problems(paths: Sequence[Path]) -> dict[Path, str]:
    """Those of the files that are absent, empty or closed, with what is wrong with each."""
    problems: dict[Path, str] = {}
    for path in paths:
        try:
            facts = path.stat()
        except FileNotFoundError:
            # the outermost of its folders that is not there: one line for all that would lie in it
            absent = next((folder for folder in reversed(path.parents) if not folder.exists()), path)
            problems[path] = f"{absent} is missing"
        except OSError as error:
            problems[path] = str(access_error(error, path))
        else:
            if not facts.st_size and not stat.S_ISDIR(facts.st_mode):  # a loader may name a folder that lacks a label
                problems[path] = f"{path} is empty (0 bytes)"
    return problems
