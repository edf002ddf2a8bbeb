"""Named protocols: whole sets of the choices of a probe, so that a score can say in one word how it came about.

A protocol that is published here is never changed: its digest is in every result, and a test holds it. What is better
gets a new name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from deapcache.errors import UnknownNameError
from deapcache.recipe import digest_of


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A learning rate and a number of steps chosen on a part of the training images; validation images are never seen.

    Every rate is trained for a fraction of the steps on the other training images, all of them stacked in one pass. The
    one that scores best on the part held out is tried for longer. Where that is clearly worse, it trains on all
    training images for the fraction, else for all steps.
    """

    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    """Peak learning rates, half a decade apart."""
    fraction: float = 0.2
    """Of the steps asked for that every rate is tried for: five rates cost one run one by one, less where stacked."""
    longer: float = 0.5
    """Of the steps that the chosen rate is tried for once more."""
    margin: float = 1.0
    """Standard errors by which more steps must score worse to lose."""
    tie_break: str = "cross_entropy"
    """Metric that decides, by the same margin, where the score is not clearly better or worse, in tasks that have it:
    overfitting shows there first."""
    held_out: float = 0.1
    """Share of the training images that rates are scored on."""
    seed: int = 0
    """Of the choice of these images, and of the readouts' initialisation."""


@dataclass(frozen=True, kw_only=True)
class NamedProtocol:
    """What a name stands for. The number of steps, the batch size and limits of images are free: results say them."""

    summary: str
    """One line for people."""
    standardise: str
    """See :class:`deapcache.recipe.Protocol`."""
    lr: float
    """Peak learning rate where none is selected."""
    selection: Selection | None = None
    readouts: tuple[str, ...] = ("deap",)
    """Where none are asked for."""
    task_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Task → its ``choices``, also those that are the default today."""
    main_metrics: Mapping[str, str] = field(default_factory=dict)
    """Task → its main metric where that is another than the task's own."""

    @property
    def digest(self) -> str:
        """sha256 of all but the summary, 64 hexadecimal characters."""
        return digest_of({name: value for name, value in asdict(self).items() if name != "summary"})

    def to_json(self) -> dict[str, Any]:
        """For ``deapcache list protocols``."""
        return {**asdict(self), "digest": self.digest}


DEFAULT_PROTOCOL = "deapcache-2"

PROTOCOLS: Mapping[str, NamedProtocol] = {
    "deapcache-2": NamedProtocol(
        summary="recommended: rate and steps chosen on a tenth of train, features standardised per channel",
        standardise="channel",
        lr=3e-3,
        selection=Selection(),
        task_options={"discrimination": {"scale": "30"}, "detection": {"radius": "published"}},
        main_metrics={"boundaries": "average_precision"},
    ),
    "paper": NamedProtocol(
        summary="as literal as the paper allows; its training recipe is not given, so one rate for all is ours",
        standardise="cell",
        lr=1e-3,
        task_options={"discrimination": {"scale": "1"}, "detection": {"radius": "published"}},
        main_metrics={"boundaries": "iou"},
    ),
    # https://github.com/facebookresearch/dinov2, notebooks/depth_estimation.ipynb: BNHead, 256 bins from 0.001 to 10 m
    "dinov2-linear": NamedProtocol(
        summary="DINOv2's linear heads: batch norm, one linear map, depth in 256 bins; schedule and length are ours",
        standardise="cell",
        lr=1e-3,
        readouts=("linear-bn",),
        task_options={"depth": {"output": "bins", "loss": "dinov2", "crop": "eigen", "cap": "10"}},
    ),
    # https://github.com/facebookresearch/dinov3, dinov3/eval/{segmentation,depth}/config.py
    "dinov3-linear": NamedProtocol(
        summary="DINOv3's linear heads: batch norm, one linear map, depth in 256 bins; schedule and length are ours",
        standardise="cell",
        lr=1e-3,
        readouts=("linear-bn",),
        task_options={"depth": {"output": "bins", "crop": "eigen", "cap": "10"}},
    ),
    # https://github.com/mbanani/probe3d, configs/optimizer and evals/models/probes.py
    "probe3d": NamedProtocol(
        summary="probe3d's heads: a DPT over four layers (--layers), depth in 256 bins; schedule and length are ours",
        standardise="cell",
        lr=5e-4,
        readouts=("multi-scale",),
        task_options={"depth": {"output": "bins", "loss": "dinov2", "cap": "10"}},
    ),
}
"""By name. docs/protocol.md says of each what comes from its source and what is ours."""


def get_protocol(name: str) -> NamedProtocol:
    """The protocol of that name; raises :class:`UnknownNameError` with those there are."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise UnknownNameError(f"unknown protocol {name!r}: expected one of {', '.join(PROTOCOLS)}") from None
