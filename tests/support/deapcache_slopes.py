"""A plugin in one file: how steep the depth of the rendered scenes is, as a label type, a dataset and a task."""

from __future__ import annotations

SLOPES = """\
import numpy as np
import torch
from deapcache.annotations import ANNOTATIONS, Annotation, flip_width
from deapcache.datasets import DATASETS
from deapcache.datasets.scenes import Scenes
from deapcache.tasks import TASKS, Metric, Task


def mirror(slopes):
    found = flip_width(slopes)
    found[..., 0] = -found[..., 0]
    return found


def paint(slopes):
    right, down = np.rint(127.5 * (1 + np.tanh(20 * np.moveaxis(slopes, -1, 0))))
    return np.stack([right, down, np.full_like(right, 128)], -1).astype(np.uint8)


ANNOTATIONS.add("slopes", Annotation(meaning="slope of ln depth, a pixel of the original: right, down", dtype="float32",
                                     channels=2, mirror=mirror, paint=paint))


class SceneSlopes(Scenes):
    name = "scene-slopes"
    annotations = ("slopes",)
    summary = "scenes with the slopes of their depth"

    def image_ids(self, split):
        return super().image_ids(split)[:3]

    def read_annotation(self, split, row, kind):
        self._require_kind(kind)
        down, right = np.gradient(np.log(Scenes().read_annotation(split, row, "depth")))
        return np.stack([right, down], -1)


class Slopes(Task):
    name = "slopes"
    annotations = ("slopes",)
    default_dataset = "scene-slopes"
    metrics = {"error": Metric(label="error", higher_is_better=False)}
    main_metric = "error"
    meaning = "slope of ln depth: right, down"
    picture = "slopes"
    options = {}

    def heads(self, classes):
        return (2,)

    def target(self, maps):
        return maps["slopes"]

    def prediction(self, output):
        return output.float().permute(0, 2, 3, 1)

    def loss(self, output, target, criterion=None):
        return (self.prediction(output) - target).abs().mean()

    def statistics(self, output, target):
        return {"error": (self.prediction(output) - target).abs().double().flatten(1).mean(1)}

    def scores(self, statistics):
        return {"error": float(statistics["error"].mean())}

    def constant_baseline(self, targets, classes):
        return torch.cat(list(targets)).mean((0, 1, 2))


TASKS.add("slopes", Slopes)
DATASETS["scene-slopes"] = SceneSlopes
"""
