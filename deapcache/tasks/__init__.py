"""Tasks: annotations to targets, outputs to losses, statistics and scores. Tensors only."""

from deapcache.tasks.task import TASKS, VOID, Maps, Metric, Target, Task, get_task

__all__ = ["TASKS", "VOID", "Maps", "Metric", "Target", "Task", "get_task"]
