"""A result at rest: JSON for people and tables, per-image statistics for intervals, and the readout's weights.

``results/<run>.json``, ``results/<run>.stats.safetensors`` and ``readouts/<run>.safetensors`` in the cache home. The
JSON is published last: where it is, the other two are.
"""

from __future__ import annotations

import functools
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from deapcache.errors import DeapcacheError, ResultsError, printable
from deapcache.locations import Location, redacted
from deapcache.machine import now, versions
from deapcache.readouts import restore_readout
from deapcache.recipe import NOT_TRAINED, SELECTED, SHORT, digest_of
from deapcache.results.documents import (
    About,
    Build,
    Caches,
    Date,
    Metrics,
    Number,
    Numbers,
    Protocol,
    ReadoutDocument,
    Selection,
)
from deapcache.results.files import pack_arrays, read_checked, runs_in, unpack_arrays
from deapcache.tasks import get_task
from deapcache.untrusted import first_problem, parse_json

if TYPE_CHECKING:
    from deapcache.readouts import Readout


SCHEMA_VERSION = 1

_PACKAGES = ("deapcache", "torch", "timm", "numpy")
_ODD = re.compile(r"[^A-Za-z0-9._@-]+")
_LONGEST_RUN = 200
"""Characters of a run's name: no file named after it has more than 255, which is what file systems allow."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One probe's result, as its JSON file holds it."""

    schema: int
    run: str
    """``<task>-<dataset>-<backbone>-<readout>-seed<seed>-<digest12>``, safe as a file name and in a URL; at most 200
    characters."""
    task: str
    dataset: str
    backbone: str
    readout: str
    seed: int
    scores: Numbers
    """Metric → score; NaN where it is not defined."""
    prior: Numbers
    """Scores of the best output that does not look at the image."""
    metrics: Metrics
    """Metric → ``label``, ``unit`` and ``higher_is_better``."""
    main_metric: str
    protocol: Protocol
    protocol_digest: str
    caches: Caches
    """``train``, ``val``, ``train instances targets`` and so on → ``path`` in the home, ``digest`` and ``recipe``."""
    classes: tuple[str, ...]
    build: Build
    """What rebuilds the readout: ``name``, ``options``, ``feature_dim``, ``heads``, ``grid``, ``cnn_width``."""
    parameters: int
    """Learnable parameters of the readout."""
    sigma: tuple[Number, ...] | None
    """Learned width of each attention head, image fractions."""
    train_images: int
    val_images: int
    loss_curve: tuple[tuple[int, float | None], ...]
    seconds: Numbers
    cost: Mapping[str, float | None] = field(default_factory=dict)
    """What the readout alone takes: ``train_ms_per_image``, ``predict_ms_per_image``, ``backward_bytes_per_image`` and
    what else was measured; ``None`` where it could not be, empty in results from before it was."""
    about: About = field(default_factory=dict)
    """What was known of the backbone when it was probed, for readers who do not have it: ``category``, ``parameters``,
    ``training_data``; empty where it was not known, and in results from before it was kept."""
    selection: Selection = field(default_factory=dict)
    """How the learning rate was chosen: ``lr``, ``metric``, ``images`` held out, ``candidates``, ``range``,
    ``fraction`` of the steps that were trained and ``longer``, the trial that decided it; empty where it was given."""
    features: Mapping[str, float] = field(default_factory=dict)
    """What was seen of the training features: ``outlier_ratio``, the root mean square of the largest channel over that
    of all; empty in results from before it was kept."""
    home_defaults: Mapping[str, str | bool] = field(default_factory=dict)
    """What ``deapcache.toml`` of the home said of extraction, as ``extract.dtype``; empty where it said nothing, and
    in results from before it was kept."""
    readouts_sharing: int
    """Readouts that shared the pass that ``seconds`` and ``images_per_second`` are of."""
    images_per_second: Number
    device: str
    residency: str
    backbone_forwards: int
    """Images that a backbone was run on while probing."""
    backbone_builds: int
    versions: Mapping[str, str]
    date: Date
    """UTC, ISO 8601."""
    command: tuple[str, ...]

    @property
    def lr(self) -> float:
        """Peak learning rate, given or chosen; NaN for a readout that is not trained."""
        given = self.protocol["optimiser"]["lr"]
        return float(self.selection["lr"] if self.is_selected else math.nan if given == NOT_TRAINED else given)

    @property
    def is_selected(self) -> bool:
        """Whether the learning rate was chosen on a part of the training images."""
        return bool(self.protocol["optimiser"]["lr"] == SELECTED)

    def to_json(self) -> dict[str, Any]:
        """The JSON document; a number that is not finite becomes ``null``."""
        document = plain_json({f.name: getattr(self, f.name) for f in fields(self)})
        assert isinstance(document, dict)
        if not self.home_defaults:
            del document["home_defaults"]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Result:
        """The result that :meth:`to_json` gave, of a document that :data:`RESULT_MODEL` accepts."""
        omit_if_default = {f.name for f in fields(cls) if f.default_factory is not MISSING}
        values = {f.name: document[f.name] for f in fields(cls) if f.name in document or f.name not in omit_if_default}
        for name in ("scores", "prior", "seconds"):
            values[name] = {key: finite_or_nan(value) for key, value in values[name].items()}
        values["images_per_second"] = finite_or_nan(values["images_per_second"])
        values["classes"] = tuple(values["classes"])
        values["command"] = tuple(values["command"])
        values["sigma"] = None if values["sigma"] is None else tuple(map(finite_or_nan, values["sigma"]))
        values["loss_curve"] = tuple((step, loss) for step, loss in values["loss_curve"])
        return cls(**values)


def finite_or_nan(value: float | None) -> float:
    """A number of a JSON document, where one that is not finite is ``null``."""
    return math.nan if value is None else float(value)


RESULT_MODEL: TypeAdapter[Result] = TypeAdapter(Result)
"""What a result's document must be, wherever it comes from: see :func:`deapcache.results.files.checked`."""


@dataclass(frozen=True)
class Statistics:
    """Per-image sufficient statistics of a run."""

    image_ids: tuple[str, ...]
    run: Mapping[str, np.ndarray]
    """Name → (images, ...)."""
    prior: Mapping[str, np.ndarray]
    """The same for the image-independent prior."""


def plain_json(value: Any) -> Any:
    """``value`` of mappings, sequences and scalars as JSON has them; a number that is not finite becomes ``None``."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def run_id(facts: Mapping[str, Any]) -> str:
    """The run's name; its digest is over protocol, the recipes of all caches used, and the seed."""
    digests = {name: cache["digest"] for name, cache in facts["caches"].items()}
    identity = {"protocol": facts["protocol_digest"], "caches": digests, "seed": facts["seed"]}
    protocol = facts["protocol"]
    names = (protocol["task"], protocol["dataset"], facts["backbone"], protocol["readout"], facts["seed"])
    return run_name(*names, digest_of(identity)[:SHORT])


def run_name(task: str, dataset: str, backbone: str, readout: str, seed: int, digest: str = "0" * SHORT) -> str:
    """A run's name, at most 200 characters: where it would be longer, its longest parts are cut.

    Its length is the same for all digests, and known before the caches are.
    """
    parts = [_ODD.sub("_", name) for name in (task, dataset, backbone, readout, f"seed{seed}")]
    longest = max(map(len, parts))
    while (length := len("-".join([*parts, digest]))) > _LONGEST_RUN:
        longest = max(longest - max(1, (length - _LONGEST_RUN) // len(parts)), 1)
        parts = [part[:longest] for part in parts]
    return "-".join([*parts, digest])


def make_result(facts: Mapping[str, Any], *, command: Sequence[str] = ()) -> Result:
    """A result from the facts of a probe (``ProbeResult.to_json()``), dated now."""
    protocol = facts["protocol"]
    named = {f.name: facts[f.name] for f in fields(Result) if f.name in facts}
    named |= {
        "schema": SCHEMA_VERSION,
        "run": run_id(facts),
        "task": protocol["task"],
        "dataset": protocol["dataset"],
        "readout": protocol["readout"],
        "build": facts["readout"],
        "versions": versions(*_PACKAGES),
        "date": now(),
        "command": [printable(redacted(word)) for word in command],
    }
    return Result.from_json(named)


def save_run(
    home: Location,
    facts: Mapping[str, Any],
    *,
    statistics: Mapping[str, np.ndarray],
    prior_statistics: Mapping[str, np.ndarray],
    image_ids: Sequence[str],
    weights: Mapping[str, np.ndarray],
    command: Sequence[str] = (),
) -> Result:
    """Write a run into ``home``; a run of the same name is replaced.

    Parameters
    ----------
    facts
        JSON object as ``ProbeResult.to_json()`` gives it.
    statistics, prior_statistics
        Name → (images, ...) per-image statistics of the readout and of the image-independent prior.
    image_ids
        Ids of these images.
    weights
        The readout's state.
    command
        The command line, ``sys.argv``; passwords in addresses are hidden.
    """
    result = make_result(facts, command=command)
    arrays = {f"run/{name}": values for name, values in statistics.items()}
    arrays |= {f"prior/{name}": values for name, values in prior_statistics.items()}
    arrays["image_ids"] = np.frombuffer(json.dumps(list(image_ids)).encode(), np.uint8)
    home.publish(statistics_key(result.run), pack_arrays(arrays), replace=True)
    about = {"run": result.run, "backbone": result.backbone, "task": result.task, "readout": dict(result.build)}
    home.publish(readout_key(result.run), pack_arrays(weights, about), replace=True)
    text = json.dumps(result.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    # a command line may name files whose names are no UTF-8: as JSON's own escapes
    home.publish(result_key(result.run), text.encode(errors="backslashreplace"), replace=True)
    return result


def result_key(run: str) -> str:
    """Where a run's JSON lies in the home."""
    return f"results/{run}.json"


def statistics_key(run: str) -> str:
    """Where a run's per-image statistics lie in the home."""
    return f"results/{run}.stats.safetensors"


def picture_key(run: str) -> str:
    """Where a run's picture lies in the home."""
    return f"results/{run}.png"


def largest_key(run: str) -> str:
    """Of the files named after a run, the one with the longest name."""
    return statistics_key(run)


def readout_key(run: str) -> str:
    """Where a run's readout lies in the home."""
    return f"readouts/{run}.safetensors"


def load_results(home: Location, runs: Iterable[str] | None = None) -> list[Result]:
    """The results of ``runs``, or all of ``home``, by run name; [] where there are none.

    A run has one file, of its own name. Of all, files that are none, or copies of another, are left out with a warning
    that names them; of ``runs``, :class:`ResultsError` names a file that is not a result, or a run that is not there.
    """
    if runs is not None:
        return [_load(home, run) for run in sorted(runs)]
    found = []
    for run in runs_in(home, "results", ".json"):
        try:
            found.append(_load(home, run))
        except ResultsError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
    return found


def _load(home: Location, run: str) -> Result:
    key = result_key(run)
    try:
        document = read_checked(home, key, RESULT_MODEL, schema=SCHEMA_VERSION, again="run its probe again")
    except FileNotFoundError:
        raise ResultsError(f"{home} has no {key}: run the probe that makes it") from None
    result = Result.from_json(document)
    if result.run != run:
        raise ResultsError(f"{home}/{key} is a copy of {result.run} under another name: delete it")
    if problem := inner_problem(result):
        raise ResultsError(f"{home}/{key} is not a whole result: {problem}; delete it, or run its probe again")
    known = known_metrics(result.task)
    return replace(result, metrics={name: known.get(name, facts) for name, facts in result.metrics.items()})


def inner_problem(result: Result) -> str:
    """In what a result contradicts itself; empty where it does not."""
    if result.main_metric not in result.metrics:
        return f"its main metric {result.main_metric} is not among its metrics"
    if result.is_selected and "lr" not in result.selection:
        return "it does not say which learning rate was selected"
    lacking = [name for name in result.metrics if name not in result.scores or name not in result.prior]
    return f"it has no score or prior of {lacking[0]}" if lacking else ""


@functools.cache
def known_metrics(task: str) -> Mapping[str, Mapping[str, Any]]:
    """What the code says of a task's metrics, which no result can say otherwise; empty for a task not known here."""
    try:
        return {name: asdict(metric) for name, metric in get_task(task).metrics.items()}
    except DeapcacheError:
        return {}


def load_statistics(home: Location, run: str) -> Statistics:
    """The per-image statistics of a run; raises :class:`ResultsError` where the file is absent or damaged."""
    key = statistics_key(run)
    arrays, _ = unpack_arrays(home, key)
    try:
        return parse_statistics(arrays)
    except (ValueError, KeyError) as error:
        raise ResultsError(f"{home}/{key} holds no statistics ({error}): run the probe that made it again") from None


def parse_statistics(stored: Mapping[str, np.ndarray]) -> Statistics:
    """The statistics from the arrays of their file; raises ``KeyError`` or ``ValueError`` for others."""
    arrays = dict(stored)
    ids = parse_json(arrays.pop("image_ids").tobytes())
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise ValueError("its image ids are no list of texts")

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    return Statistics(tuple(ids), part("run/"), part("prior/"))


_READOUT: TypeAdapter[ReadoutDocument] = TypeAdapter(ReadoutDocument)


@dataclass(frozen=True)
class ReadoutFile:
    """A readout at rest."""

    run: str
    backbone: str
    task: str
    readout: Mapping[str, Any]
    """``name``, ``options``, ``feature_dim``, ``heads``, ``grid``, ``cnn_width``, ``seed``, ``output_size``,
    ``classes``."""
    weights: Mapping[str, np.ndarray]

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) that the readout was trained at, pixels."""
        height, width = self.readout["output_size"]
        return height, width

    def build(self) -> list[Readout]:
        """The trained readouts of the task, one a head, on the CPU and in evaluation mode.

        The task takes their outputs side by side: ``torch.cat([head(features, size) for head in heads], 1)``. Raises
        :class:`ResultsError` where the weights are those of another readout, and what :func:`restore_readout` raises.
        """
        import torch

        about = self.readout
        try:
            heads = [
                restore_readout(
                    about["name"],
                    feature_dim=about["feature_dim"],
                    out_channels=channels,
                    grid=tuple(about["grid"]),
                    cnn_width=about["cnn_width"],
                    standardise=about.get("standardise", "cell"),
                    covered=tuple(about.get("covered", (1.0, 1.0))),
                    parts=tuple(about.get("parts", ())),
                    options=about["options"],
                    state={
                        name.removeprefix(f"{place}."): torch.from_numpy(array.copy())
                        for name, array in self.weights.items()
                        if name.startswith(f"{place}.")
                    },
                )
                for place, channels in enumerate(about["heads"])
            ]
        except (RuntimeError, KeyError, TypeError) as error:  # of load_state_dict, and of options that are lacking
            raise ResultsError(
                f"the readout of {self.run} does not hold the weights of a {about['name']!r} readout as it says "
                f"({' '.join(str(error).split())[:200]}): run its probe again"
            ) from None
        for head in heads:
            head.trained_size = self.output_size
            if head.training_free:
                head.output_of_mean = get_task(self.task, about.get("task_options")).output_of_mean
        return heads


def load_readout_file(home: Location, run: str) -> ReadoutFile:
    """The trained readout of ``run``; raises :class:`ResultsError` where its file is absent or damaged."""
    key = readout_key(run)
    weights, facts = unpack_arrays(home, key)
    try:
        _READOUT.validate_json(json.dumps(facts), strict=True)
    except ValidationError as error:
        raise ResultsError(f"{home}/{key} is not a readout of deapcache: {first_problem(error)}") from None
    if facts["run"] != run:
        raise ResultsError(f"{home}/{key} is a copy of the readout of {facts['run']} under another name")
    return ReadoutFile(facts["run"], facts["backbone"], facts["task"], facts["readout"], weights)
