"""From a request to a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from deapcache.errors import ResultsError
from deapcache.experiments.figures.request import FigureRequest
from deapcache.results import load_results, select, summarise
from deapcache.results.figures import find_figure

if TYPE_CHECKING:
    from deapcache.results.figures.canvas import Canvas
    from deapcache.results.figures.subjects import Subject


def make_figure(request: FigureRequest) -> Canvas:
    """The figure, to be saved with ``Canvas.save("svg")``.

    Raises :class:`deapcache.errors.UnknownNameError` for a name that is none, :class:`ResultsError` that names the
    command to run where results are missing, and what opening caches and readouts raises.
    """
    makers: Mapping[str, Callable[[FigureRequest], Canvas]] = {
        "instance-awareness": _instance_awareness,
        "parameters": _parameters,
        "resolutions": _resolutions,
        "correlations": _correlations,
        "speed-quality": _speed_quality,
        "sigma": _sigma,
        "features": _features,
    }
    return makers[find_figure(request.name).name](request)


def _subjects(request: FigureRequest) -> list[Subject]:
    """The results that are asked for; with the paper's numbers there may be none."""
    from deapcache.results.figures.subjects import subjects

    found = load_results(request.home)
    if not found and not request.paper:
        raise ResultsError(f"no results in {request.home}: figure {request.name} needs {_needs(request)}")
    return subjects(summarise(select(found, request.selection)), request.rates)


def _needs(request: FigureRequest) -> str:
    return f"{find_figure(request.name).needs} --home {request.home}"


def _instance_awareness(request: FigureRequest) -> Canvas:
    from deapcache.results.figures.instance_awareness import draw_instance_awareness

    return draw_instance_awareness(_subjects(request), paper=request.paper)


def _parameters(request: FigureRequest) -> Canvas:
    from deapcache.results.figures.parameters import draw_parameters

    return draw_parameters(_subjects(request), paper=request.paper)


def _correlations(request: FigureRequest) -> Canvas:
    from deapcache.results.figures.correlations import draw_correlations
    from deapcache.results.figures.references import read_reference, shipped_references

    references = read_reference(request.reference) if request.reference else shipped_references()
    return draw_correlations(_subjects(request), references, paper=request.paper)


def _speed_quality(request: FigureRequest) -> Canvas:
    from deapcache.results.figures.speed_quality import draw_speed_quality
    from deapcache.results.speeds import load_speeds

    speeds = load_speeds(request.home, request.speed_device)
    return draw_speed_quality(_subjects(request), speeds, paper=request.paper)


def _sigma(request: FigureRequest) -> Canvas:
    from deapcache.results.figures.sigma import draw_sigma

    return draw_sigma(_subjects(request))


def _resolutions(request: FigureRequest) -> Canvas:
    from deapcache.experiments.figures.resolutions import query_resolutions

    return query_resolutions(request)


def _features(request: FigureRequest) -> Canvas:
    from deapcache.experiments.figures.features import gather_features

    return gather_features(request)
