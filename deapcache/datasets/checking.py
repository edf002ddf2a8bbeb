"""Whether a dataset's files are all there and can be read, image by image."""

from __future__ import annotations

import functools
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from deapcache.annotations import get_annotation
from deapcache.datasets.base import Dataset
from deapcache.datasets.io import access_error
from deapcache.datasets.workers import in_order, workers
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
    rows of the sample are spread evenly over the split.
    """
    listed = _list(dataset, check)
    if not check.images and not check.problems:
        check.problems.append(f"{dataset.name}/{check.split} lists no image")
    complaints = tuple(check.problems)
    broken = _look(listed, check, progress)
    chosen = range(check.images) if full else sample_rows(check.images)
    check.to_open = len(chosen)
    for row, problems in _open(listed, check.split, chosen):
        known = [path for path in listed.row_files(check.split, row) if path in broken]
        check.problems += [problem for problem in problems if not _is_told(problem, complaints, known)]
        check.opened += 1
        progress("images", check.opened, check.to_open)


def sample_rows(images: int) -> Sequence[int]:
    """At most :data:`SAMPLE` of so many rows, spread evenly, the first and the last among them."""
    if images <= SAMPLE:
        return range(images)
    return [k * (images - 1) // (SAMPLE - 1) for k in range(SAMPLE)]


def read_problems(dataset: Dataset, split: str, row: int) -> tuple[str, ...]:
    """What is wrong with an image and its annotations, decoded whole: one line each, none where all is well."""
    problems: list[str] = []
    try:
        size: tuple[int, ...] | None = dataset.read_image(split, row).shape[:2]
    except (DeapcacheError, OSError) as error:
        size = None
        problems.append(one_line(error))
    for kind in dataset.annotations:
        try:
            problems += _size_problem(dataset, split, row, kind, size)
        except (DeapcacheError, OSError) as error:
            problems.append(one_line(error))
    return tuple(dict.fromkeys(problems))


def one_line(error: Exception) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())


def _size_problem(dataset: Dataset, split: str, row: int, kind: str, size: tuple[int, ...] | None) -> list[str]:
    values = dataset.read_annotation(split, row, kind)
    if get_annotation(kind).columns or size is None or values.shape[:2] == size:
        return []
    image = next(iter(dataset.row_files(split, row)), dataset.image_ids(split)[row])
    found = " x ".join(map(str, values.shape))
    return [f"{image} has {size[0]} x {size[1]} pixels (height x width), its {kind} have {found}"]


def _list(dataset: Dataset, check: SplitCheck) -> Dataset:
    """The dataset as far as it can be listed; what it says against that is the first problem."""
    try:
        check.images = len(dataset.image_ids(check.split))
        return dataset
    except (DeapcacheError, OSError) as error:
        check.problems.append(one_line(error))
    lenient = dataset.tolerant()
    with suppress(DeapcacheError, OSError):  # the same again where the split cannot be listed at all
        check.images = len(lenient.image_ids(check.split))
    return lenient


def _look(dataset: Dataset, check: SplitCheck, progress: CheckProgress) -> set[Path]:
    """Look at the files of all rows, without opening them; those that are absent or empty."""
    rows = range(check.images)
    paths = list(dict.fromkeys(path for row in rows for path in dataset.row_files(check.split, row)))
    check.folder = paths[0].parent if paths else None
    complaints, told, broken = tuple(check.problems), set[str](), set[Path]()
    with ThreadPoolExecutor() as pool:
        chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
        for chunk, problems in in_order(pool, _file_problems, chunks):
            broken.update(problems)
            new = [p for path, p in problems.items() if not any(_names(complaint, path) for complaint in complaints)]
            check.problems += [problem for problem in dict.fromkeys(new) if problem not in told]
            told.update(new)
            check.files += len(chunk)
            progress("files", check.files, len(paths))
    return broken


def _file_problems(paths: Sequence[Path]) -> dict[Path, str]:
    found = {path: _file_problem(path) for path in paths}
    return {path: problem for path, problem in found.items() if problem}


def _file_problem(path: Path) -> str:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return f"{_first_absent(path)} is missing"
    except OSError as error:
        return str(access_error(error, path))
    is_sound = facts.st_size or stat.S_ISDIR(facts.st_mode)  # a loader may name the folder that lacks a label
    return "" if is_sound else f"{path} is empty (0 bytes)"


def _first_absent(path: Path) -> Path:
    """The file itself, or the outermost of its folders that is not there: one line for all that would lie in it."""
    return next((folder for folder in reversed(path.parents) if not folder.exists()), path)


def _open(dataset: Dataset, split: str, rows: Sequence[int]) -> Iterator[tuple[int, tuple[str, ...]]]:
    with workers(dataset) as pool:
        yield from in_order(pool, functools.partial(read_problems, dataset, split), rows)


def _is_told(problem: str, complaints: Iterable[str], known: Iterable[Path]) -> bool:
    """Whether what a row says was said before: by the listing, which begins with its first problem, or of its files."""
    return any(told.startswith(problem) for told in complaints) or any(_names(problem, path) for path in known)


def _names(message: str, path: Path) -> bool:
    """Whether a message is about a file: it has its path, or its folder and its name apart."""
    return _has(message, str(path)) or (_has(message, str(path.parent)) and _has(message, path.name))


def _has(message: str, name: str) -> bool:
    """Whether a name stands in a message on its own, not as a part of a longer one."""
    return re.search(rf"(?:^|[\s(]){re.escape(name)}(?=$|[\s;:,)]|\.(?:\s|$))", message) is not None
