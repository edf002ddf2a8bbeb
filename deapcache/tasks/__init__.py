"""Tasks: annotations to targets, outputs to losses, statistics and scores. Tensors only.

What a task is, and scores from statistics, need no torch, so that lists and tables load none: it is imported by the
functions that compute with tensors.
"""

from deapcache.annotations import VOID
from deapcache.tasks.binary import Boundaries, Foreground
from deapcache.tasks.depth import Depth
from deapcache.tasks.detection import Detection
from deapcache.tasks.discrimination import Discrimination
from deapcache.tasks.edges import Edges
from deapcache.tasks.normals import Normals
from deapcache.tasks.segmentation import CocoStuff, Segmentation, Voc
from deapcache.tasks.task import TASKS, Maps, Metric, Target, Task, each_row, get_task

TASKS["boundaries"] = Boundaries
TASKS["detection"] = Detection
TASKS["discrimination"] = Discrimination
TASKS["foreground"] = Foreground
TASKS["segmentation"] = Segmentation
TASKS["voc"] = Voc
TASKS["coco-stuff"] = CocoStuff
TASKS["depth"] = Depth
TASKS["normals"] = Normals
TASKS["edges"] = Edges

__all__ = ["TASKS", "VOID", "Maps", "Metric", "Target", "Task", "each_row", "get_task"]
