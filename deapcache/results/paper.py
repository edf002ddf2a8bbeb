"""The paper's own numbers, under our names and in our units.

Source: "Dense Attentive Probing: dense output with less than 100K learnable parameters", Tables 3, 4 and 5, as printed,
in ``paper.json`` beside this file. What the paper prints times 100 is a share between 0 and 1 here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

from deapcache.regions import SQUASH
from deapcache.results.record import Result

READOUTS: Mapping[str, str] = {
    "deap": "base",
    "deap:16": "base",
    "8-dim": "8-dim",
    "deap:8": "8-dim",
    "no-sigma": "no-sigma",
    "no-indiv-sigma": "no-indiv-sigma",
    "only-mask": "only-mask",
}
"""Our readouts → the rows of Table 5. Tables 3 and 4 are of ``base``."""

BASE = "base"


@dataclass(frozen=True, kw_only=True)
class PaperNumber:
    """A number as the paper prints it, in our unit."""

    value: float
    decimals: int
    """Decimals that the print fixes, in our unit."""
    source: str
    """``Table 3``."""

    @property
    def rounding(self) -> float:
        """How far the unrounded number may be from ``value``."""
        return 0.5 * 10.0**-self.decimals

    def __str__(self) -> str:
        return f"{self.value:.{self.decimals}f}"


@dataclass(frozen=True, kw_only=True)
class PaperData:
    """What the paper trained and scored a task on (section 4.1)."""

    dataset: str
    train_images: int
    val_images: int
    output_size: tuple[int, int]
    """(height, width), pixels."""


_COCO_TRAIN, _COCO_VAL = 118_287, 5_000

DATA: Mapping[str, PaperData] = {
    "discrimination": PaperData(dataset="coco", train_images=8_000, val_images=_COCO_VAL, output_size=(224, 224)),
    "boundaries": PaperData(dataset="coco", train_images=_COCO_TRAIN, val_images=_COCO_VAL, output_size=(224, 224)),
    "detection": PaperData(dataset="coco", train_images=_COCO_TRAIN, val_images=_COCO_VAL, output_size=(224, 224)),
    "voc": PaperData(dataset="voc", train_images=1_464, val_images=1_449, output_size=(224, 224)),
    "coco-stuff": PaperData(dataset="coco-stuff", train_images=100_000, val_images=_COCO_VAL, output_size=(224, 224)),
    "depth": PaperData(dataset="nyuv2", train_images=795, val_images=654, output_size=(216, 288)),
}
"""Our tasks → the paper's data. The paper does not say how many COCO images its boundaries and detection saw: all."""


class _Printed(NamedTuple):
    """Where and how a score is printed."""

    section: str
    metric: str
    unit: float
    """Our number for a printed 1."""
    decimals: int
    """Decimals in our unit."""
    source: str


_SCORES: Mapping[tuple[str, str], _Printed] = {
    ("discrimination", "ari"): _Printed("instance_discrimination", "ari", 0.01, 3, "Table 3"),
    ("boundaries", "cross_entropy"): _Printed("boundaries", "cross_entropy", 1, 4, "Table 3"),
    ("boundaries", "iou"): _Printed("boundaries", "iou", 0.01, 3, "Table 3"),
    ("detection", "ap_large"): _Printed("detection", "ap_large", 1, 4, "Table 3"),
    ("voc", "cross_entropy"): _Printed("voc", "cross_entropy", 1, 4, "Table 4"),
    ("voc", "mean_iou"): _Printed("voc", "iou", 0.01, 3, "Table 4"),
    ("coco-stuff", "cross_entropy"): _Printed("coco_stuff", "cross_entropy", 1, 4, "Table 4"),
    ("coco-stuff", "mean_iou"): _Printed("coco_stuff", "iou", 0.01, 3, "Table 4"),
    ("depth", "rmse"): _Printed("depth", "rmse", 1, 3, "Table 4"),
}

_ABLATIONS: Mapping[tuple[str, str], _Printed] = {
    ("detection", "ap_large"): _Printed("detection_ap_large", "", 1, 4, "Table 5"),
    ("voc", "mean_iou"): _Printed("voc_iou", "", 0.01, 3, "Table 5"),
    ("depth", "rmse"): _Printed("depth_rmse", "", 1, 4, "Table 5"),
}


def paper_backbones() -> list[str]:
    """The 18 backbones by our names, in the order of Tables 3 and 4."""
    return list(_document()["backbones"])


def paper_features(backbone: str) -> tuple[int, int]:
    """Parameters of one of :func:`paper_backbones`, and cells of its volume along each side, as the paper prints."""
    row = _document()["backbones"][backbone]
    return round(row["params_M"] * 1e6), row["feature_side"]


def paper_metrics(task: str) -> list[str]:
    """The metrics that Tables 3 and 4 print for one of the tasks of :data:`DATA`."""
    return [metric for name, metric in _SCORES if name == task]


def paper_score(backbone: str, task: str, metric: str) -> PaperNumber | None:
    """The score that Table 3 or 4 prints; ``None`` where they print none."""
    printed = _SCORES.get((task, metric))
    row = _document()["backbones"].get(backbone)
    if printed is None or row is None:
        return None
    return _number(row[printed.section][printed.metric], printed)


def paper_ablation(readout: str, backbone: str, task: str, metric: str) -> PaperNumber | None:
    """The score that Table 5 prints for our readout of that name; ``None`` where it prints none."""
    printed = _ABLATIONS.get((task, metric))
    row = _document()["ablation"].get(READOUTS.get(readout))
    if printed is None or row is None or backbone not in row[printed.section]:
        return None
    return _number(row[printed.section][backbone], printed)


def paper_parameters(backbone: str, task: str) -> PaperNumber | None:
    """P_learn, the learnable parameters that Table 3 or 4 prints, millions; ``None`` where they print none."""
    printed = next((found for (name, _), found in _SCORES.items() if name == task), None)
    row = _document()["backbones"].get(backbone)
    if printed is None or row is None:
        return None
    return PaperNumber(value=row[printed.section]["params_M"], decimals=3, source=printed.source)


def _number(value: float, printed: _Printed) -> PaperNumber:
    # rounded again: 46.8 × 0.01 is 0.46799999999999997
    scaled = round(value * printed.unit, printed.decimals)
    return PaperNumber(value=scaled, decimals=printed.decimals, source=printed.source)


@functools.cache
def _document() -> dict[str, Any]:
    return dict(json.loads(files("deapcache.results").joinpath("paper.json").read_text(encoding="utf-8")))


def unlike_paper(result: Result) -> str:
    """Why a result must not stand beside the paper's, for a note; empty where it may.

    Same data is asked for: dataset, numbers of images, output size, whole images. Which ones it chose where it did not
    take all, and how it trained, the paper does not say.
    """
    data = DATA.get(result.task)
    if data is None:
        return "the paper has no such task"
    size = tuple(result.protocol["output_size"])
    pairs = {
        "dataset": (result.dataset, data.dataset),
        "train images": (result.train_images, data.train_images),
        "val images": (result.val_images, data.val_images),
        "output size": (size, data.output_size),
        "fit": (result.caches["train"]["recipe"].get("base_fit", SQUASH), SQUASH),
    }
    return "; ".join(f"{name} {ours}, the paper's {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs)
