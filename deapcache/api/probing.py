"""``deapcache probe`` as a function."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deapcache.api.places import Home, home_of
from deapcache.api.runs import Results
from deapcache.locations import Location

if TYPE_CHECKING:
    from deapcache.experiments import Report
    from deapcache.probing import Residency

T = TypeVar("T")


def probe(
    task: str | Sequence[str],
    *,
    dataset: str | None = None,
    backbone: str | Sequence[str] = (),
    readout: str | Sequence[str] = "deap",
    seed: int | Sequence[int] = 0,
    iterations: int | None = None,
    batch_size: int = 32,
    lr: float | Sequence[float] = 1e-3,
    limit: int | None = None,
    views: str | Sequence[str] = "original",
    where: Mapping[str, Any] = {},
    task_options: Mapping[str, Mapping[str, str]] = {},
    upsampler: str | os.PathLike[str] | None = None,
    residency: Residency | None = None,
    device: str = "auto",
    home: Home = None,
    results_home: Home = None,
    report: Report = lambda *_: None,
) -> Results:
    """Train dense readouts from cached features, score them, and save results, readouts and pictures.

    The arguments are the options of ``deapcache probe``, whose help explains them; what the command takes as ``a,b`` is
    a list here, and one thing may stand for a list of it. ``report`` is called with the name of the pass and how far it
    has come. Raises what the command says: ``CacheMissError``, ``UsageError``, ``TrainingError`` and others; runs that
    are scored by then are saved, and :func:`load_results` has them. A picture that cannot be drawn is a warning.
    """
    given = {name: value for name, value in locals().items() if name not in ("task", "report")}
    from deapcache.experiments import choose_device
    from deapcache.experiments import probe as run
    from deapcache.probing import ProbeConfig

    config = ProbeConfig(
        tasks=_several(task),
        dataset=dataset,
        backbones=_several(backbone),
        readouts=_several(readout),
        seeds=_several(seed),
        where=where,
        lrs=_several(lr),
        task_options=task_options,
        upsampler=None if upsampler is None else Path(upsampler),
        batch_size=batch_size,
        iterations=iterations,
        train_limit=limit,
        val_limit=limit,
        views=_several(views),
        residency=residency,
        device=str(choose_device(device)),
    )
    caches = home_of(home)
    own = caches if results_home is None else home_of(results_home)
    done = list(run(caches, config, results_home=own, report=report, command=_command(task, given)))
    for one in done:
        if one.picture_problem:
            warnings.warn(f"no picture of {one.result.run}, which is saved: {one.picture_problem}", stacklevel=2)
    return Results([one.result for one in done], own)


def _several(given: T | Sequence[T]) -> tuple[T, ...]:
    """One thing or several of it, as a tuple; a text is one thing."""
    return tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)


def _command(task: str | Sequence[str], given: Mapping[str, Any]) -> list[str]:
    """The call as a command that repeats it, which results keep: what differs from the defaults."""
    defaults = probe.__kwdefaults__ or {}
    changed = {name: value for name, value in given.items() if value != defaults[name]}
    plain = {
        name: str(value) if isinstance(value, Location | os.PathLike) else value for name, value in changed.items()
    }
    arguments = ", ".join([repr(task), *(f"{name}={value!r}" for name, value in plain.items())])
    return ["python", "-c", f"import deapcache; deapcache.probe({arguments})"]
