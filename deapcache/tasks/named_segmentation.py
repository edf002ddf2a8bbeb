"""The paper's two semantic segmentation benchmarks (section 4.1, local semantics)."""

from __future__ import annotations

from typing import ClassVar

from deapcache.errors import UsageError
from deapcache.tasks.segmentation import Segmentation
from deapcache.tasks.task import TASKS


class _NamedSegmentation(Segmentation):
    """Segmentation of one dataset's classes, whose number is known without the dataset."""

    class_count: ClassVar[int]

    def heads(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        """One logit a class; raises :class:`UsageError` for a dataset that names another number of classes."""
        if classes and len(classes) != self.class_count:
            raise UsageError(
                f"task {self.name} has {self.class_count} classes, and this dataset's class map has {len(classes)}: "
                f"choose the dataset {self.default_dataset}, or the task segmentation, which takes any"
            )
        return (self.class_count,)


class Voc(_NamedSegmentation):
    """PASCAL VOC 2012: 20 kinds of object and the background, which counts as a class."""

    name = "voc"
    default_dataset = "voc"
    class_count = 21


class CocoStuff(_NamedSegmentation):
    """COCO-Stuff 164k: 80 kinds of thing and 91 of stuff."""

    name = "coco-stuff"
    default_dataset = "coco-stuff"
    class_count = 171

    def cnn_width(self, classes: tuple[str, ...]) -> int:
        """32: the width that gives the paper's number of parameters; the readout's own rule would say 85."""
        return 32


TASKS.add("voc", Voc)
TASKS.add("coco-stuff", CocoStuff)
