"""Which tasks a dataset can serve, from what is registered of it: no file is looked at."""

from __future__ import annotations

from collections.abc import Collection

from deapcache.datasets import DATASETS, DatasetEntry
from deapcache.errors import UsageError
from deapcache.tasks import TASKS, Task, get_task


def tasks_of(entry: DatasetEntry) -> list[str]:
    """Names of the tasks that a dataset's annotations and classes suffice for; none where they depend on its files."""
    return [name for name in TASKS.names() if _suits(get_task(name), entry)]


def datasets_for(task: Task) -> list[str]:
    """Names of the registered datasets that suit a task, its default first, the others by name."""
    fitting = [name for name, entry in DATASETS if _suits(task, entry)]
    return sorted(fitting, key=lambda name: (name != task.default_dataset, name))


def require_suited(task: Task, dataset: str, cached: Collection[str]) -> None:
    """Raise :class:`UsageError` where a dataset is known to lack what a task needs, and name those that have it.

    ``cached``: kinds of targets of the dataset that are there already. Nothing is said of a dataset that is not
    registered (a home may hold targets that another machine's plugin made) or whose annotations depend on its files.
    """
    entry = DATASETS.get(dataset) if dataset in DATASETS else None
    if entry is None or not entry.annotations or set(task.annotations) <= set(cached):
        return
    lacking = [kind for kind in task.annotations if kind not in entry.annotations]
    if not lacking:
        _require_classes(task, entry)
        return
    kinds = f"annotation{'s' * (len(lacking) > 1)} {listed(lacking)}"
    fitting = datasets_for(task)
    instead = f"choose --dataset {listed(fitting, 'or')}" if fitting else "no registered dataset suits this task"
    raise UsageError(
        f"task {task.name} needs the {kinds}, and dataset {entry.name} has {listed(entry.annotations)}: {instead} "
        "(`deapcache list datasets`)"
    )


def _suits(task: Task, entry: DatasetEntry) -> bool:
    if not entry.annotations or not set(task.annotations) <= set(entry.annotations):
        return False
    try:
        _require_classes(task, entry)
    except UsageError:
        return False
    return True


def _require_classes(task: Task, entry: DatasetEntry) -> None:
    if entry.classes:
        task.heads(entry.classes)  # raises where they do not suit the task


def listed(names: Collection[str], conjunction: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``, of at least one name."""
    *first, last = names
    return f"{', '.join(first)} {conjunction} {last}" if first else last
