"""An experiment as data: a YAML file becomes backbones × tasks × readouts × seeds, with every default filled in.

:class:`Pipeline`, :class:`ProbeSpec` and :class:`ModelSpec` are the keys of the file, which pydantic checks; errors say
file, line and key.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from deapcache.backbones import (
    AUTOCAST,
    DEFAULT_LAYERS,
    LAST,
    NO_TOKENS,
    TOKENS,
    LayerSelection,
    at_size,
    describe,
    layers_of,
    parse_image_size,
)
from deapcache.cache import ORIGINAL, STORAGE_FORMATS, VIEWS
from deapcache.errors import PipelineError, UsageError, did_you_mean
from deapcache.extraction import ON_ERROR, ExtractionSettings, agreed_settings, parse_base_size
from deapcache.locations import HomeDefaults, expanded
from deapcache.probing import ProbeConfig
from deapcache.probing.config import OUTPUT, SCORE_SIZES
from deapcache.protocols import DEFAULT_PROTOCOL, PROTOCOLS, get_protocol
from deapcache.readouts import canonical_readout, readout_entry
from deapcache.readouts.config import STANDARDISED
from deapcache.recipe import SUBSET_SEED
from deapcache.regions import FITS, SQUASH
from deapcache.results import LAYOUTS, PLAIN
from deapcache.tasks import get_task
from deapcache.untrusted import LARGEST_WHOLE

KeyPath = tuple[str | int, ...]
"""Where a value stands: ``("probes", 0, "limit")``, written ``probes.0.limit``."""


class _CheckError(ValueError):
    """What is wrong with a value; pydantic adds where it stands, and ``at`` a place within it."""

    def __init__(self, problem: str, *, at: KeyPath = ()) -> None:
        super().__init__(problem)
        self.at = at


def _shown(value: Any) -> str:
    """A value that was found, for errors: short, and in the words of YAML."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise _CheckError(f"expected text, found {_shown(value)}")


def _one_of(*choices: str) -> BeforeValidator:
    def check(value: Any) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise _CheckError(f"expected one of {', '.join(choices)}, found {_shown(value)}")

    return BeforeValidator(check)


def _known(look_up: Callable[[str], str]) -> BeforeValidator:
    """A name for which ``look_up`` gives the name to use; it raises :class:`UsageError`, a ValueError, for others."""
    return BeforeValidator(lambda value: look_up(_text(value)))


def _whole_number(least: int, most: int = 2**31 - 1) -> BeforeValidator:
    def check(value: Any) -> int:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if is_whole and least <= value <= most:
            return int(value)
        upper = f"from {least} to {most}" if is_whole and value > most else f"of {least} or more"
        raise _CheckError(f"expected a whole number {upper}, found {_shown(value)}")

    return BeforeValidator(check)


def _number_or_all(value: Any) -> int | None:
    if value == "all":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
        return value
    raise _CheckError(f"expected a number of images or all, found {_shown(value)}")


def _positive(value: Any) -> float:
    # YAML 1.1 reads 1e-3, which has no dot, as text
    try:
        found = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        found = 0.0
    if 0 < found < float("inf"):
        return found
    raise _CheckError(f"expected a number above 0, found {_shown(value)}")


def _list(example: str) -> BeforeValidator:
    """A list of one or more; one value may stand without its brackets."""

    def check(value: Any) -> list[Any]:
        if value is None or value == [] or isinstance(value, Mapping):
            found = "an empty list" if value == [] else _shown(value)
            raise _CheckError(f"expected a list such as {example}, found {found}")
        return value if isinstance(value, list) else [value]

    return BeforeValidator(check)


def _all_different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise _CheckError(f"{_shown(value)} is in the list twice: remove one", at=(place,))
    return values


def _fields(value: Any) -> dict[str, str]:
    """Names of the user's own and their values, as text."""
    if not isinstance(value, Mapping):
        raise _CheckError(f"expected names with values such as {{weights: 0a1b2c3d4e5f}}, found {_shown(value)}")
    for name, item in value.items():
        if not isinstance(item, str | int | float | bool):
            raise _CheckError(f"expected one value, found {_shown(item)}", at=(str(name),))
    return {str(name): str(item).lower() if isinstance(item, bool) else str(item) for name, item in value.items()}


def _number_as_text(value: Any) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)


def _probes(value: Any) -> list[Any]:
    if isinstance(value, list) and value:
        return value
    raise _CheckError(f"expected a list of what to probe, found {_shown(value)}")


def _checkpoint(value: Any) -> Path:
    path = Path(expanded(_text(value)))
    if path.is_file():
        return path
    raise _CheckError(f"there is no file {path}: give a checkpoint (safetensors, torch, or the index of several files)")


_DIFFERENT = AfterValidator(_all_different)
_Text = Annotated[str, BeforeValidator(_text)]
_Fields = Annotated[dict[str, str], BeforeValidator(_fields)]
_Count = Annotated[int, _whole_number(1)]
_Backbone = Annotated[str, _known(lambda name: describe(name).name)]
_Task = Annotated[str, _known(lambda name: get_task(name).name)]
_Readout = Annotated[str, _known(canonical_readout)]
_Seed = Annotated[int, _whole_number(0, LARGEST_WHOLE)]
_View = Annotated[str, _one_of(*VIEWS)]
# what these two raise, UsageError, is a ValueError
_BaseSize = Annotated[Any, BeforeValidator(lambda value: parse_base_size(_number_as_text(value)))]
_ImageSize = Annotated[tuple[int, int], BeforeValidator(lambda value: parse_image_size(_number_as_text(value)))]
_Layer = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else _text(value))]
_Layout = Annotated[str, _one_of(PLAIN, *LAYOUTS)]


class ModelSpec(BaseModel):
    """One entry of ``backbones``: a model, with which weights, at which size, what is kept of it and what it is called.

    A plain name in the file is one that says nothing but ``model``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: _Backbone
    weights: Annotated[Path, BeforeValidator(_checkpoint)] | None = None
    """A checkpoint in place of the published weights."""
    weights_key: _Text = ""
    """Beginning of the backbone's keys in it."""
    name: _Text = ""
    """What its features are called; only of a checkpoint."""
    image_size: _ImageSize | None = None
    layers: Annotated[tuple[_Layer, ...], _list("[9, 12]"), _DIFFERENT] = ()
    """Blocks to keep, each probed for itself where a probe joins none; none given: the backbone's last map."""
    tokens: Annotated[str, _one_of(*TOKENS)] = NO_TOKENS
    base_size: _BaseSize = None
    dtype: Annotated[str, _one_of(*STORAGE_FORMATS)] | None = None
    precision: Annotated[str, _one_of(*AUTOCAST)] | None = None
    """None, as ``base_size`` and ``dtype``: the pipeline's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        """What its keys come to together; layers as recipes name them."""
        for key in ("weights_key", "name"):
            if self.weights is None and getattr(self, key):
                raise _CheckError("is for a checkpoint: say which with `weights`", at=(key,))
        for key, look_up in (("name", self.settings_on), ("image_size", lambda _: self.label)):
            try:
                look_up(ExtractionSettings())
            except UsageError as error:
                raise _CheckError(str(error), at=(key,) if getattr(self, key) else ()) from None
        selection = LayerSelection(layers=self.layers or (LAST,), tokens=self.tokens)
        if selection == DEFAULT_LAYERS:
            return self
        try:
            layers = layers_of(self.backbone, selection)[0]
        except UsageError as error:
            raise _CheckError(str(error), at=("layers",) if self.layers else ("tokens",)) from None
        return self.model_copy(update={"layers": layers if self.layers else ()})

    @functools.cached_property
    def backbone(self) -> str:
        """What builds it: the model's name, with the image size."""
        return at_size(self.model, self.image_size) if self.image_size else self.model

    @functools.cached_property
    def label(self) -> str:
        """What its features are called in caches, results and tables."""
        return self.settings_on(ExtractionSettings()).label(describe(self.backbone).name)

    def settings_on(self, shared: ExtractionSettings, layers: Iterable[str] = (LAST,)) -> ExtractionSettings:
        """Settings that all models share, with what this one says, and these layers kept."""
        selection = LayerSelection(layers=tuple(layers), tokens=self.tokens)
        return replace(
            shared,
            weights=self.weights,
            weights_key=self.weights_key,
            name=self.name,
            selection=selection,
            base_size=self.base_size or shared.base_size,
            storage=self.dtype or shared.storage,
            precision=self.precision or shared.precision,
        )


def _different_labels(models: tuple[ModelSpec, ...]) -> tuple[ModelSpec, ...]:
    for place, model in enumerate(models):
        if model in models[:place]:
            raise _CheckError(f"{_shown(model.label)} is in the list twice: remove one", at=(place,))
        if model.label in [other.label for other in models[:place]]:
            raise _CheckError(_SAME_LABEL.format(model.label), at=(place,))
    return models


_SAME_LABEL = "{!r} is the name of another entry already, with other keys: give each a `name` of its own"
_Model = Annotated[
    ModelSpec, BeforeValidator(lambda value: value if isinstance(value, Mapping) else {"model": _text(value)})
]


class Shared(BaseModel):
    """What a pipeline says for all its probes, and a probe for itself; one without its own takes the pipeline's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbones: Annotated[tuple[_Model, ...], _list("[dinov2, mae]"), AfterValidator(_different_labels)] = ()
    readouts: Annotated[tuple[_Readout, ...], _list("[deap, no-sigma]"), _DIFFERENT] = ()
    """None given: the protocol's."""
    seeds: Annotated[tuple[_Seed, ...], _list("[0, 1, 2]"), _DIFFERENT] = (0,)
    iterations: _Count | None = None
    batch_size: _Count = 32
    protocol: Annotated[str, _one_of(*PROTOCOLS)] = DEFAULT_PROTOCOL
    lr: Annotated[tuple[Annotated[float, BeforeValidator(_positive)], ...], _list("[0.001, 0.0003]"), _DIFFERENT] = ()
    """None given: as the protocol has it, as a rule chosen on a part of the training images."""
    standardise: Annotated[str, _one_of(*STANDARDISED)] | None = None
    """None: as the protocol has it."""
    limit: _Count | None = None
    """Images of each split that are used; None: all."""
    train_limit: Annotated[
        tuple[Annotated[int | None, BeforeValidator(_number_or_all)], ...], _list("[50, 100, all]"), _DIFFERENT
    ] = ()
    """Numbers of training images, drawn as nested subsets, each probed for itself (None: all); none: ``limit``."""
    upsampler: _Text | None = None
    score_size: Annotated[str, _one_of(*SCORE_SIZES)] = OUTPUT
    layers: Annotated[
        tuple[_Layer, ...],
        _list("[6, 9, last]"),
        _DIFFERENT,
        AfterValidator(lambda layers: ProbeConfig(layers=layers).layers),
    ] = ()
    """Layers whose features are joined; none given: the backbone's last map."""
    views: Annotated[
        tuple[_View, ...],
        _list("[original, hflip]"),
        _DIFFERENT,
        AfterValidator(lambda views: ProbeConfig(views=views).views),
    ] = (ORIGINAL,)


class ProbeSpec(Shared):
    """One entry of ``probes``: all its tasks × backbones × readouts × seeds on one dataset."""

    tasks: Annotated[tuple[_Task, ...], _list("[voc, depth]"), _DIFFERENT]
    dataset: _Text
    choices: _Fields = Field(default_factory=dict)

    @property
    def sizes(self) -> tuple[ProbeConfig, ...]:
        """The :attr:`options` of each number of training images."""
        limits = [replace(self.options, train_limit=limit, train_subset=SUBSET_SEED) for limit in self.train_limit]
        return tuple(limits) or (self.options,)

    @property
    def options(self) -> ProbeConfig:
        """All choices of training; its device is chosen when it runs."""
        return ProbeConfig(
            iterations=self.iterations,
            batch_size=self.batch_size,
            protocol=self.protocol,
            lrs=self.lr,
            standardise=self.standardise,
            train_limit=self.limit,
            val_limit=self.limit,
            views=self.views,
            layers=self.layers,
            score_size=self.score_size,
            upsampler=None if self.upsampler is None else Path(self.upsampler),
            task_options=dict.fromkeys(self.tasks, self.choices) if self.choices else {},
        )

    @property
    def left_out(self) -> tuple[str, ...]:
        """Readouts that cannot be built: those around a published upsampler whose file is not given."""
        needing = tuple(name for name in self.readouts if readout_entry(name).needs_upsampler)
        return needing if self.upsampler is None else ()


class Pipeline(Shared):
    """An experiment as data."""

    name: _Text = ""
    """Default: that of the file."""
    description: _Text = ""
    layout: Annotated[tuple[_Layout, ...], _list("[plain, table5]"), _DIFFERENT] = (PLAIN,)
    """How its results are shown: ``plain``, or as a table or figure of the paper."""
    fit: Annotated[str, _one_of(*FITS)] = SQUASH
    """How images are brought to the base size."""
    base_size: _BaseSize = None
    """``224``, ``216x288`` or ``native``; None: each dataset's own."""
    dtype: Annotated[str, _one_of(*STORAGE_FORMATS)] | None = None
    """How features are stored; None: as ``storage`` says."""
    storage: Annotated[str, _one_of(*STORAGE_FORMATS)] = "float16"
    """What earlier versions called ``dtype``."""
    precision: Annotated[str, _one_of(*AUTOCAST)] = "fp32"
    on_error: Annotated[str, _one_of(*ON_ERROR)] = "stop"
    """What becomes of images that cannot be read: ``stop`` or ``skip``."""
    where: _Fields = Field(default_factory=dict)
    """Recipe fields that caches must have, where the home holds several of a backbone or an annotation."""
    probes: Annotated[tuple[ProbeSpec, ...], BeforeValidator(_probes)] = Field(None, validate_default=True)

    def left_to(self, home: HomeDefaults) -> dict[str, Any]:
        """What ``deapcache.toml`` of a home says where the pipeline says nothing: ``storage`` and ``precision``."""
        agreed = agreed_settings(home)
        said = self.model_fields_set | ({"storage"} if self.dtype else set())
        return {field: agreed[field] for field in ("storage", "precision") if field in agreed and field not in said}

    @model_validator(mode="after")
    def _one_storage(self) -> Self:
        if self.dtype is not None and "storage" in self.model_fields_set:
            raise _CheckError("is the same as `storage`, which is given too: leave that out", at=("dtype",))
        return self

    @property
    def stored_as(self) -> str:
        """The format of features that say nothing else."""
        return self.dtype or self.storage

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of all datasets, in the order of the probes."""
        return tuple(dict.fromkeys(probe.dataset for probe in self.probes))


def _keys(model: type[Shared]) -> list[str]:
    """The keys of a model in the order in which errors list them: its own, those it shares, ``probes``."""
    own = [name for name in model.model_fields if name not in Shared.model_fields]
    return sorted([*own, *Shared.model_fields], key=lambda name: name == "probes")


def shipped_pipelines() -> dict[str, Traversable]:
    """Name → file of the pipelines that come with deapcache, by name."""
    inside = importlib.resources.files("deapcache") / "pipelines"
    # a checkout keeps them beside the package, where people look for them; a wheel has them within
    folder = inside if inside.is_dir() else Path(__file__).parents[2] / "pipelines"
    files = {file.name: file for file in (folder.iterdir() if folder.is_dir() else ())}
    return {name.removesuffix(".yaml"): files[name] for name in sorted(files) if name.endswith(".yaml")}


def load_pipeline(name: str, settings: Sequence[str] = ()) -> Pipeline:
    """The pipeline in the file ``name``, or the shipped one of that name, with ``--set`` values put in.

    Raises :class:`PipelineError` where there is no such file or pipeline, and for the first thing that is wrong in it,
    and :class:`UsageError` for a setting without ``=``.
    """
    file = _find(name)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise PipelineError(f"{name}: cannot be read: {reason}; expected a pipeline in YAML") from None
    document = _Document(text, str(file))
    if settings and isinstance(document.value, dict):
        for setting in settings:
            document.override(setting)
    return _pipeline_of(document)


def make_pipeline(document: Mapping[str, Any], source: str) -> Pipeline:
    """The pipeline of these keys, as if they stood in a file that is called ``source``."""
    return _pipeline_of(_Document(yaml.safe_dump(dict(document)), source))


def _find(name: str) -> Traversable:
    if Path(name).is_file() or "/" in name or name.endswith((".yaml", ".yml")):
        if Path(name).exists():
            return Path(name)
        raise PipelineError(f"{name}: no such file; shipped pipelines by name: {', '.join(shipped_pipelines())}")
    shipped = shipped_pipelines()
    if name in shipped:
        return shipped[name]
    hint = did_you_mean(name, shipped, n=2) or f"shipped: {', '.join(shipped)};"
    raise PipelineError(f"unknown pipeline {name!r}: {hint} otherwise give a file such as ./{name}.yaml")


def _pipeline_of(document: _Document) -> Pipeline:
    if not isinstance(document.value, dict):
        raise document.error((), f"expected keys such as `backbones` and `probes`, found {_shown(document.value)}")
    try:
        pipeline = Pipeline.model_validate(document.value)
    except ValidationError as refused:
        first = min(refused.errors(include_url=False), key=lambda error: document.order(_path_of(error)))
        path = _path_of(first)
        raise document.error(path[:-1] if first["type"] == "missing" else path, _problem_of(first)) from None
    shared = {name: getattr(pipeline, name) for name in Shared.model_fields if name in pipeline.model_fields_set}
    probes = []
    for place, own in enumerate(pipeline.probes):
        given = {name: value for name, value in shared.items() if name not in own.model_fields_set}
        probe = own.model_copy(update=given)
        probe = probe.model_copy(update={"readouts": probe.readouts or get_protocol(probe.protocol).readouts})
        probes.append(probe)
        if not probe.backbones:
            raise document.error(("probes", place), "backbones is missing: say which, here or for the whole pipeline")
        if probe.limit is not None and probe.train_limit:
            raise document.error(
                ("probes", place), "limit takes the first images of both splits, train_limit some of train: give one"
            )
        try:
            for task in probe.tasks:
                get_task(task, probe.choices)
        except UsageError as error:
            raise document.error(("probes", place, "choices"), str(error)) from None
    _require_one_model_a_label(document, probes)
    name = pipeline.name or Path(document.source).stem
    return pipeline.model_copy(update={"name": name, "probes": tuple(probes)})


def _require_one_model_a_label(document: _Document, probes: Sequence[ProbeSpec]) -> None:
    """Raise :class:`PipelineError` where two probes call different models the same."""
    known: dict[str, ModelSpec] = {}
    for place, probe in enumerate(probes):
        own = ("probes", place) if "backbones" in document.value["probes"][place] else ()
        for index, model in enumerate(probe.backbones):
            if known.setdefault(model.label, model) != model:
                raise document.error((*own, "backbones", index), _SAME_LABEL.format(model.label))


def _path_of(error: Mapping[str, Any]) -> KeyPath:
    """Where a value or key stands that pydantic refuses."""
    path: KeyPath = error["loc"]
    if error["type"] in _ODD_KEYS:
        return (*(path if error["type"] == "string_unicode" else path[:-1]), str(error["input"]))
    return (*path, *getattr(error.get("ctx", {}).get("error"), "at", ()))


def _problem_of(error: Mapping[str, Any]) -> str:
    """What pydantic found, in the words of a pipeline."""
    path = _path_of(error)
    if error["type"] == "missing":
        return f"{path[-1]} is missing: say which"
    if error["type"] in ("extra_forbidden", *_ODD_KEYS):
        name = error["input"] if error["type"] in _ODD_KEYS else path[-1]
        if "backbones" in path[:-1]:
            return _unknown_key(name, ModelSpec.model_fields)
        return _unknown_key(name, _keys(ProbeSpec if path[:-1] else Pipeline))
    if error["type"] == "model_type":
        return f"expected keys such as `tasks` and `dataset`, found {_shown(error['input'])}"
    return str(error["ctx"]["error"])


_ODD_KEYS = ("invalid_key", "string_unicode")
"""Pydantic's types of errors for keys that are no text, or none that UTF-8 can hold; the input is the key."""


def _unknown_key(name: object, known: Iterable[str]) -> str:
    """What to say of a key that nothing reads; offers the nearest."""
    names = list(known)
    hint = did_you_mean(str(name), names, n=2, cutoff=0.6)
    return f"unknown key {name!r}: {hint}{' ' if hint else ''}known here: {', '.join(names)}"


def _written(path: KeyPath) -> str:
    """``probes.0.limit``."""
    return ".".join(str(part) for part in path)


_LISTS = ("layout", "backbones", "tasks", "readouts", "seeds", "lr", "views", "train_limit")
"""Keys whose lists may be set without brackets."""

_FREE = ("where", "choices")
"""Keys that hold names of the user's own."""


class _Document:
    """A file's YAML as plain values, with the place of each, so that an error can point at it."""

    def __init__(self, text: str, source: str) -> None:
        """Raises :class:`PipelineError` for text that is no YAML, and for a key that stands twice in one mapping, of
        which YAML readers keep the last without a word."""
        self.source = source
        node, self.value = _read_yaml(text, source)
        self.places: dict[KeyPath, str] = {}
        """Where a value comes from: ``line 7``, or the ``--set`` that put it there."""
        if node is not None:
            self._note_places(node, (), set())

    def _note_places(self, node: yaml.Node, path: KeyPath, seen: set[int]) -> None:
        if id(node) in seen:  # an alias: noted where its anchor stands, which also ends a value that contains itself
            return
        seen.add(id(node))
        self.places.setdefault(path, _line(node.start_mark))
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._note_places(item, (*path, index), seen)
        if isinstance(node, yaml.MappingNode):
            for key, item in node.value:
                inner, line = (*path, str(key.value)), _line(key.start_mark)
                if inner in self.places:
                    raise PipelineError(
                        f"{self.source}, {line}: {_written(inner)} is there twice (first on {self.places[inner]}): "
                        "remove one of the two"
                    )
                self.places[inner] = line
                self._note_places(item, inner, seen)

    def error(self, path: KeyPath, problem: str) -> PipelineError:
        """The error that says which file, which line, which key, and what is wrong there."""
        value = self.value
        for end, part in enumerate(path):
            if isinstance(part, int) and not isinstance(value, list):  # one value that stands without its brackets
                path = path[:end] + path[end + 1 :]
                break
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                break
        if path[-1:] == ("model",) and path not in self.places:  # of a backbone that is a plain name
            path = path[:-1]
        known = next((self.places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.places), "")
        where = f"{self.source}, {known}" if known else self.source
        return PipelineError(f"{where}: {_written(path)}: {problem}" if path else f"{where}: {problem}")

    def order(self, path: KeyPath) -> tuple[bool, list[int]]:
        """For sorting by place in the file, except that a missing key comes last, and ``probes`` after all others."""
        value, places = self.value, []
        for part in path:
            if isinstance(value, list) and isinstance(part, int):
                places.append(part)
                value = value[part]
            elif isinstance(value, dict):
                names = list(map(str, value))
                places.append(names.index(str(part)) if str(part) in names else len(names))
                value = value.get(part)
        return path[:1] == ("probes",), places

    def override(self, setting: str) -> None:
        """Put in ``key=value``, such as ``seeds=0,1`` or ``probes.0.limit=64``; values are YAML.

        Raises :class:`UsageError` for what has no ``=``, and :class:`PipelineError` for a key that there is not.
        """
        key, equals, text = setting.partition("=")
        if not (key and equals):
            raise UsageError(f"--set takes KEY=VALUE such as seeds=0,1 or probes.0.limit=64, found {setting!r}")
        try:
            path = self._path_of(key.strip().split("."))
        except _CheckError as wrong:
            raise PipelineError(f"--set {setting}: {wrong}") from None
        is_list = path[-1] in _LISTS and not text.lstrip().startswith("[")
        new = _read_yaml(f"[{text}]" if is_list else text, f"--set {setting}")[1]
        holder: Any = self.value
        for part in path[:-1]:
            inner = holder.setdefault(part, {}) if isinstance(holder, dict) else holder[part]
            if not isinstance(inner, dict | list):
                raise PipelineError(f"{_written(path)} cannot be set: {part} holds {inner!r}")
            holder = inner
        holder[path[-1]] = new
        self.places = {at: place for at, place in self.places.items() if at[: len(path)] != path}
        self.places[path] = f"--set {setting}"

    def _path_of(self, parts: list[str]) -> KeyPath:
        """The place that a key of ``--set`` means; raises :class:`_CheckError`."""
        above: KeyPath = ()
        names = _keys(Pipeline)
        if parts[0] == "probes" and len(parts) > 1:
            probes = self.value.get("probes")
            count = len(probes) if isinstance(probes, list) else 0
            if not parts[1].isdecimal() or int(parts[1]) >= count:
                raise _CheckError(f"there is no probes.{parts[1]}: the pipeline has {count}, probes.0 is the first")
            above, names, parts = ("probes", int(parts[1])), _keys(ProbeSpec), parts[2:]
            if not parts:
                return above
        name, *rest = parts
        if name not in names:
            raise _CheckError(_unknown_key(name, names))
        if rest and (name not in _FREE or len(rest) > 1):
            raise _CheckError(f"{_written((*above, name))} holds no further keys: set it as a whole")
        return (*above, name, *rest)


_MOST_VALUES = 100_000


def _read_yaml(text: str, source: str) -> tuple[yaml.Node | None, Any]:
    """YAML (its safe subset) as nodes and as plain values, within what a pipeline can need.

    Raises :class:`PipelineError` with file and line.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        if _count_values(node, {}, loader, source) > _MOST_VALUES:
            raise PipelineError(
                f"{source}: holds more than {_MOST_VALUES:,} values once its aliases (*name) are written out: write "
                "what is meant without them"
            )
        return node, loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        where = f"{source}, {_line(mark)}" if mark else source
        raise PipelineError(
            f"{where}: is no YAML that can be read: {problem}; names and numbers stand as `key: value` or `key: [a, b]`"
        ) from None
    except PipelineError:
        raise
    except (ValueError, RecursionError) as error:  # such as the date 2024-99-99
        raise PipelineError(f"{source}: is no YAML that can be read: {error}") from None


def _count_values(node: yaml.Node, known: dict[int, int], loader: yaml.SafeLoader, source: str) -> int:
    """How many values a node stands for, each alias counted as what it repeats; refuses numbers beyond int64."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = _MOST_VALUES  # while it is counted: what holds itself has no end
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:int":
        # the length first: to construct a number of very many digits takes long
        is_huge = len(node.value) > 100 or abs(loader.construct_yaml_int(node)) > LARGEST_WHOLE
        if is_huge:
            raise PipelineError(
                f"{source}, {_line(node.start_mark)}: a number of {len(node.value):,} characters is larger than any "
                f"that is meant: at most {LARGEST_WHOLE:,} is possible"
            )
    known[id(node)] = 1 + sum(_count_values(each, known, loader, source) for each in inner)
    return known[id(node)]


def _line(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}"
