"""What a caller chooses about a probe, and what it hears while the probe runs.

What a caller leaves out comes from a named protocol (:mod:`deapcache.protocols`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from deapcache.cache import HFLIP, ORIGINAL, VIEWS, check_views
from deapcache.errors import UsageError, require_choice
from deapcache.locations import Location
from deapcache.protocols import DEFAULT_PROTOCOL, NamedProtocol, Selection, get_protocol
from deapcache.readouts import readout_entry
from deapcache.readouts.config import STANDARDISED
from deapcache.recipe import LAST, NOT_TRAINED, SELECTED, is_layer
from deapcache.tasks import get_task

WARM_UP = 0.05
"""Share of the iterations over which the learning rate rises linearly; afterwards it falls to 0 along a cosine."""

GRADIENT_CLIP = 1.0
"""Largest gradient norm of one readout."""

Residency = Literal["gpu", "memory", "stream"]
"""Where training arrays live: in the memory of the GPU, in the host's memory, or in the cache, from which batches are
read ahead."""

RESIDENCIES: tuple[str, ...] = get_args(Residency)


OUTPUT, NATIVE = SCORE_SIZES = ("output", "native")
"""Of which size label maps are that scores are made over."""


def layer_depth(layer: str) -> float:
    """A number by which layers are in order: that of the block, behind all for ``last`` and other names."""
    return int(layer) if layer.isdecimal() else math.inf


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """All choices of a probe: what to train on what, and how; raises :class:`UsageError` for values out of range.

    :func:`deapcache.experiments.probe` fills in the dataset and the backbones where they are left out;
    :func:`deapcache.probing.probe_backbone` takes one dataset and one backbone.
    """

    tasks: Sequence[str] = ()
    dataset: str | None = None
    """``None``: each task's default dataset, or the only cached one that suits it."""
    backbones: Sequence[str] = ()
    """Empty: every one cached for the dataset."""
    readouts: Sequence[str] = ()
    """Empty: the protocol's."""
    seeds: Sequence[int] = (0,)
    """Seeds of the readouts' initialisation."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Recipe fields that features and targets must have, where the home holds several caches of them."""
    images_name: str | None = None
    """Dataset under whose name the features are cached; ``None``: ``dataset``, or the one whose images it shares
    (:func:`deapcache.experiments.probe` looks it up)."""
    layers: tuple[str, ...] = ()
    """Layers whose features are joined along channels, numbers of blocks and ``last``: at least two, in the order of
    depth whatever the order given. Empty: one cache is read."""
    splits: tuple[str, str] = ("train", "val")
    """Names of the splits to train and to score on."""
    protocol: str = DEFAULT_PROTOCOL
    """Named protocol that decides what is left out here."""
    lrs: tuple[float, ...] = ()
    """AdamW's peak learning rates; each is a readout of its own, with a protocol of its own. Empty: chosen on a part of
    the training images, or the protocol's one."""
    select: bool | None = None
    """Whether the learning rate is chosen on a part of the training images; ``None``: where the protocol does so, and
    no rate is given."""
    standardise: str | None = None
    """``cell`` or ``channel``: over what features are brought to mean 0 and variance 1; ``None``: as the protocol."""
    weight_decay: float = 1e-4
    batch_size: int = 32
    iterations: int | None = None
    """Steps of each readout; ``None``: the task's own, 30,000 for the COCO tasks and 10,000 for the others."""
    order_seed: int = 0
    """Seed of the order in which images are drawn; the readouts' seeds do not touch it."""
    train_limit: int | None = None
    """Train on the first so many images, all where there are not more; ``None``: on all."""
    train_subset: int | None = None
    """Seed by which the images of ``train_limit`` are drawn from all: subsets of one seed are nested. ``None``: they
    are the first ones."""
    val_limit: int | None = None
    """Score on the first so many images, all where there are not more; ``None``: on all."""
    views: tuple[str, ...] = (ORIGINAL,)
    """Views of the training images to draw from, the original ones among them; validation images are never mirrored."""
    score_size: str = OUTPUT
    """``output``: scores are over targets of the output size; ``native``: over label maps of their own size, which are
    read from the dataset's files."""
    data_root: Path | None = None
    """Where these files lie; ``None``: where :func:`deapcache.locations.data_root` says."""
    output_size: tuple[int, int] | None = None
    """(height, width) of the target caches to use; ``None``: the base size of the features, or, where these come from
    images of native size, the only one there is."""
    task_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Task → its ``choices`` that are not the default: ``{"depth": {"crop": "eigen"}}``."""
    upsampler: Path | None = None
    """Checkpoint of the published upsampler that ``featup`` is built around."""
    residency: Residency | None = None
    """Where training arrays live; ``None``: the first that has room
    (:func:`deapcache.probing.batches.choose_residency`)."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", check_views(self.views))
        if ORIGINAL not in self.views:
            raise UsageError(
                f"views {', '.join(self.views)}: scores are of original images, so training draws from these as well: "
                f"expected {', '.join(VIEWS)}, or nothing for the original images alone"
            )
        view = self.where.get("view", ORIGINAL)
        if view != ORIGINAL:
            raise UsageError(
                f"view={view} cannot choose the features of a probe: scores are of original images. To train on "
                f"mirrored ones as well, ask for the views {ORIGINAL},{HFLIP} (--views)"
            )
        object.__setattr__(self, "layers", tuple(sorted(map(str, self.layers), key=layer_depth)))
        self._check_layers()
        named = get_protocol(self.protocol)
        if self.select and self.lrs:
            raise UsageError(
                f"lr {', '.join(f'{lr:g}' for lr in self.lrs)} is given, and a choice of the rate asked for: leave out "
                "one of --lr and --select"
            )
        require_choice("size to score at", self.score_size, SCORE_SIZES)
        if self.standardise is not None:
            require_choice("standardisation of features", self.standardise, STANDARDISED)
        given = [("lr", lr) for lr in self.lrs]
        given += [(name, getattr(self, name)) for name in ("batch_size", "iterations", "train_limit", "val_limit")]
        for name, value in given:
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} is {value}: expected a number above 0, and a finite one")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"weight_decay is {self.weight_decay}: expected 0 or more, and a finite number")
        object.__setattr__(self, "readouts", tuple(self.readouts) or named.readouts)
        self._check_residency()

    def _check_layers(self) -> None:
        wrong = [layer for layer in self.layers if not is_layer(layer)]
        twice = [layer for layer in self.layers if self.layers.count(layer) > 1]
        if wrong or twice or len(self.layers) == 1:
            found = f"{wrong[0]!r} is no layer" if wrong else f"{twice[0]} is there twice" if twice else "there is one"
            raise UsageError(
                f"layers {','.join(self.layers)}: {found}; expected two or more, numbers of blocks from 1 and {LAST}, "
                "such as 3,6,last; to read one layer, choose its cache with --where layer=6"
            )
        if self.layers and HFLIP in self.views:
            raise UsageError(
                f"layers {','.join(self.layers)} and views {','.join(self.views)}: mirror images are drawn with one "
                "layer only; leave out one of --layers and --views"
            )
        if self.layers and "layer" in self.where:
            raise UsageError(
                f"layer={self.where['layer']} and layers {','.join(self.layers)} are asked for: leave out one of "
                "--where layer=… and --layers"
            )

    def _check_residency(self) -> None:
        if self.residency is not None and self.residency not in RESIDENCIES:
            raise UsageError(f"unknown residency {self.residency!r}: choose one of {', '.join(RESIDENCIES)}")
        if self.residency == "gpu" and self.device.partition(":")[0] != "cuda":
            raise UsageError(
                f"residency gpu needs a GPU, and training runs on {self.device}: choose memory or stream, "
                "or --device cuda"
            )

    @property
    def backbone(self) -> str:
        """The only backbone; raises :class:`UsageError` where there is not exactly one."""
        if len(self.backbones) != 1:
            raise UsageError(f"one pass probes one backbone, and {len(self.backbones)} are given")
        return self.backbones[0]

    def extract_command(self, home: Location, model: str = "") -> str:
        """The command that makes the features and targets of this probe, and continues where it stopped.

        ``model``: as of :func:`deapcache.backbones.extract_options`.
        """
        from deapcache.backbones import extract_options  # for messages alone: probing loads no backbone

        layers = f" --layers {','.join(self.layers)}" if self.layers else ""
        options = extract_options(self.backbone, model)
        return f"deapcache extract --dataset {self.dataset} {options} --home {home}{layers}"

    @property
    def named(self) -> NamedProtocol:
        """What the protocol's name stands for."""
        return get_protocol(self.protocol)

    @property
    def standardisation(self) -> str:
        """Over what features are standardised: ``cell`` or ``channel``."""
        return self.standardise or self.named.standardise

    @property
    def selection(self) -> Selection | None:
        """How the learning rate is chosen; ``None``: it is given."""
        wanted = self.select if self.select is not None else self.named.selection is not None and not self.lrs
        return (self.named.selection or Selection()) if wanted else None

    @property
    def rates(self) -> tuple[float | str, ...]:
        """The learning rates that readouts are trained at, or ``selected``."""
        return (SELECTED,) if self.selection else tuple(dict.fromkeys(self.lrs)) or (self.named.lr,)

    def rates_of(self, readout: str) -> tuple[float | str, ...]:
        """The :attr:`rates` of a readout: ``none`` for one that is not trained."""
        return (NOT_TRAINED,) if readout_entry(readout).training_free else self.rates

    def options_of(self, task: str) -> dict[str, str]:
        """The choices of a task: the protocol's, and over them those given."""
        return {**self.named.task_options.get(task, {}), **self.task_options.get(task, {})}

    def protocol_name(self, task: str) -> str:
        """``deapcache-2``, or ``deapcache-2, changed: lr, radius`` where something of it was chosen otherwise."""
        named = self.named
        changed = {
            "lr": bool(self.lrs) and (named.selection is not None or self.rates != (named.lr,)),
            "select": not self.lrs and self.selection != named.selection,
            "standardise": self.standardisation != named.standardise,
            "weight_decay": self.weight_decay != ProbeConfig.weight_decay,
            "score_size": self.score_size != OUTPUT,
        }
        usual, chosen = (
            get_task(task, given).chosen for given in (named.task_options.get(task), self.options_of(task))
        )
        changed |= {name: chosen[name] != value for name, value in usual.items()}
        names = ", ".join(name for name, is_other in changed.items() if is_other)
        return f"{self.protocol}, changed: {names}" if names else self.protocol

    def optimiser(self, lr: float | str) -> dict[str, Any]:
        """Optimiser and schedule at one of the :attr:`rates`, as the protocol records them."""
        return {
            "name": "AdamW",
            "lr": lr,
            "weight_decay": self.weight_decay,
            "schedule": "linear warm-up, cosine to 0",
            "warm_up": WARM_UP,
            "gradient_clip": GRADIENT_CLIP,
            "precision": "fp32",
        }


@dataclass(frozen=True, kw_only=True)
class ProbeProgress:
    """How far one stage of a probe has come."""

    stage: str
    """``select`` and ``train`` (counted in iterations), or ``score`` (counted in images)."""
    done: int
    total: int
    mean_loss: float | None = None
    """Mean recent training loss of all readouts; ``None`` before the first check of the losses, and when scoring."""


Progress = Callable[[ProbeProgress], None]
