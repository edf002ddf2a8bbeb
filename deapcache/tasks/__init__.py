"""Tasks: annotations to targets, outputs to losses, statistics and scores. Tensors only."""

from deapcache.tasks.binary import Boundaries, Foreground
from deapcache.tasks.depth import Depth
from deapcache.tasks.detection import Detection
from deapcache.tasks.discrimination import Discrimination
from deapcache.tasks.segmentation import CocoStuff, Segmentation, Voc
from deapcache.tasks.task import TASKS, VOID, Maps, Metric, Target, Task, get_task

TASKS.add("boundaries", Boundaries)
TASKS.add("detection", Detection)
TASKS.add("discrimination", Discrimination)
TASKS.add("foreground", Foreground)
TASKS.add("segmentation", Segmentation)
TASKS.add("voc", Voc)
TASKS.add("coco-stuff", CocoStuff)
TASKS.add("depth", Depth)

__all__ = ["TASKS", "VOID", "Maps", "Metric", "Target", "Task", "get_task"]
