"""Which dataset serves which task, known without any file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from deapcache_toys import COUNTS, add_features, add_targets

from deapcache.datasets import DATASETS, Dataset
from deapcache.errors import CacheMissError, UsageError
from deapcache.experiments.probe import choose_datasets, datasets_for
from deapcache.tasks import TASKS, get_task
from deapcache.tasks.depth import Depth


def tasks_of(entry: type[Dataset]) -> list[str]:
    return [name for name in TASKS.names() if get_task(name).suits(entry.annotations, entry.classes)]


def test_tasks_follow_from_annotations_and_classes() -> None:
    coco, scenes = DATASETS.get("coco"), DATASETS.get("scenes")
    assert set(tasks_of(coco)) == {"boundaries", "detection", "discrimination", "foreground", "segmentation"}
    assert set(tasks_of(scenes)) == {*tasks_of(coco), "depth"}
    assert "voc" in tasks_of(DATASETS.get("voc"))
    assert tasks_of(type("Unknown", (coco,), {"annotations": ()})) == []
    many = type("Many", (scenes,), {"classes": tuple(f"class {k}" for k in range(171))})
    assert "coco-stuff" in tasks_of(many)


def test_the_default_dataset_comes_first() -> None:
    assert datasets_for(get_task("foreground"))[0] == "coco"
    assert datasets_for(get_task("segmentation"))[0] == "scenes"
    assert datasets_for(get_task("depth"))[0] == "nyuv2"
    assert datasets_for(get_task("voc")) == ["voc"]
    assert datasets_for(get_task("coco-stuff")) == ["coco-stuff"]


@pytest.mark.parametrize(
    ("task", "dataset", "message"),
    [
        (
            "segmentation",
            "nyuv2",
            r"needs the annotation classes, and dataset nyuv2 has instances, boxes and depth: .*scenes",
        ),
        ("depth", "coco", r"needs the annotation depth, .*: choose --dataset nyuv2, .* or scenes "),
        ("coco-stuff", "coco", r"task coco-stuff has 171 classes, .* has 81: choose the dataset coco-stuff"),
        ("detection", "ade20k", r"needs the annotations boxes and instances, and dataset ade20k has classes: "),
        ("voc", "scenes", r"task voc has 21 classes, .* has 10"),
    ],
)
def test_what_a_dataset_lacks_is_one_line(home, task: str, dataset: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        choose_datasets(home, [task], dataset, [])
    assert "\n" not in str(raised.value)


def test_a_task_that_no_dataset_serves_is_said(home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Depth, "annotations", ("depth", "flow"))
    with pytest.raises(UsageError, match=r"needs the annotation flow, .*: no registered dataset suits this task"):
        choose_datasets(home, ["depth"], "scenes", [])


def test_datasets_whose_annotations_are_not_known_are_left_alone(home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_datasets(home, ["depth"], "of-another-machine", []) == {"of-another-machine": ["depth"]}
    with pytest.raises(UsageError, match="depth"):
        choose_datasets(home, ["depth"], "coco", [])
    monkeypatch.setitem(DATASETS._entries, "coco", type("Unknown", (DATASETS.get("coco"),), {"annotations": ()}))
    assert choose_datasets(home, ["depth"], "coco", []) == {"coco": ["depth"]}


def test_targets_that_are_cached_count(home, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"name": "toys", "annotations": ("instances", "boxes"), "classes": ()}
    monkeypatch.setitem(DATASETS._entries, "toys", type("Toys", (DATASETS.get("coco"),), facts))
    with pytest.raises(UsageError, match="needs the annotation classes, and dataset toys has instances and boxes"):
        choose_datasets(home, ["segmentation"], "toys", [])
    for split in COUNTS:
        add_features(home, split)
        add_targets(home, split, "classes")
    assert choose_datasets(home, ["segmentation"], "toys", []) == {"toys": ["segmentation"]}


def test_the_advice_where_nothing_is_cached(home) -> None:
    with pytest.raises(CacheMissError) as raised:
        choose_datasets(home, ["foreground"], None, [])
    advice = str(raised.value)
    assert f"`deapcache extract --backbone efficientnet-lite0-s16 --dataset coco --home {home}`" in advice
    assert advice.endswith("; --dataset cityscapes, nyuv2, scenes or voc would suit task foreground as well")
    assert "\n" not in advice


def test_the_commands_line(home, tmp_path: Path, capsys: Any) -> None:
    from deapcache.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["probe", "--task", "coco-stuff", "--dataset", "nyuv2", "--home", str(home)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs the annotation classes, and dataset nyuv2 has instances, boxes and depth" in line
