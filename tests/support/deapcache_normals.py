"""A plugin in one file: surface normals of the rendered scenes, as a label type, a dataset and a task."""

from __future__ import annotations

NORMALS = """\
import numpy as np
import torch
from deapcache.annotations import ANNOTATIONS, Annotation, flip_width, resize_map
from deapcache.datasets import DATASETS
from deapcache.datasets.scenes import Scenes
from deapcache.tasks import TASKS, Metric, Task


def of_depth(depth):
    down, right = np.gradient(depth)
    normals = np.stack([-right, -down, np.full_like(depth, 0.01)], -1)
    return (normals / np.linalg.norm(normals, axis=-1, keepdims=True)).astype(np.float32)


def resize(normals, size, fit):
    nearest = resize_map(normals, size, fit)
    return nearest / np.linalg.norm(nearest, axis=-1, keepdims=True)


def mirror(normals):
    found = flip_width(normals)
    found[..., 0] = -found[..., 0]
    return found


def paint(normals):
    return np.rint(127.5 * (1 + normals)).astype(np.uint8)


ANNOTATIONS.add("normals", Annotation(meaning="surface normal: right, down, away", dtype="float32", channels=3,
                                      resize=resize, mirror=mirror, paint=paint))


class SceneNormals(Scenes):
    name = "scene-normals"
    annotations = ("normals",)
    summary = "scenes with surface normals"

    def image_ids(self, split):
        return super().image_ids(split)[:3]

    def read_annotation(self, split, row, kind):
        self._require_kind(kind)
        return of_depth(Scenes().read_annotation(split, row, "depth"))


LIMITS = {"within_11": 11.25, "within_22": 22.5, "within_30": 30.0}


class Normals(Task):
    name = "normals"
    annotations = ("normals",)
    default_dataset = "scene-normals"
    metrics = {
        "angle": Metric(label="angle", unit="degrees", higher_is_better=False),
        **{name: Metric(label=f"< {limit:g}°", higher_is_better=True) for name, limit in LIMITS.items()},
    }
    main_metric = "angle"
    picture = "normals"
    options = {}

    def heads(self, classes):
        return (3,)

    def target(self, maps):
        return maps["normals"]

    def prediction(self, output):
        return torch.nn.functional.normalize(output.float(), dim=1).permute(0, 2, 3, 1)

    def loss(self, output, target, criterion=None):
        return (1 - (self.prediction(output) * target).sum(-1)).mean()

    def statistics(self, output, target):
        cosine = (self.prediction(output) * target).sum(-1).clamp(-1, 1)
        angles = torch.rad2deg(torch.acos(cosine)).double().flatten(1)
        return {"angle": angles.mean(1), **{name: (angles < limit).double().mean(1) for name, limit in LIMITS.items()}}

    def scores(self, statistics):
        return {name: float(values.mean()) for name, values in statistics.items()}

    def constant_baseline(self, targets, classes):
        mean = torch.cat([target for target in targets]).mean(0)
        return mean.permute(2, 0, 1)


TASKS.add("normals", Normals)
DATASETS["scene-normals"] = SceneNormals
"""
