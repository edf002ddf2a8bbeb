"""What exporters write into COCO's fields: read as it is meant, or refused for the true reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deapcache.annotations import CROWD, OBJECT
from deapcache.datasets import Dataset, open_dataset
from deapcache.errors import DataError

Content = dict[str, Any]


@pytest.fixture
def edited(make_coco: Callable[..., Path]) -> Callable[[Callable[[Content], Any]], Dataset]:
    """A function that opens a small COCO whose listing of validation images was changed."""
    root = make_coco(2, 2)

    def change(edit: Callable[[Content], Any]) -> Dataset:
        path = root / "annotations" / "instances_val2017.json"
        content = json.loads(path.read_bytes())
        edit(content)
        path.write_text(json.dumps(content))
        return open_dataset("coco", root)

    return change


def _set(key: str, value: Any, of: str = "annotations") -> Callable[[Content], None]:
    return lambda content: [one.update({key: value(one) if callable(value) else value}) for one in content[of]] and None


@pytest.mark.parametrize("value", [0, None, False, 0.0, "0", "0.0", "false", "False", " FALSE ", ""])
def test_objects_stay_objects(edited, value: Any) -> None:
    plain = edited(_set("iscrowd", 0))
    expected = plain.read_annotation("val", 0, "instances"), plain.annotation_digest("val", "instances")
    assert 1 in expected[0]
    dataset = edited(_set("iscrowd", value))
    np.testing.assert_array_equal(dataset.read_annotation("val", 0, "instances"), expected[0])
    assert set(dataset.read_annotation("val", 0, "boxes")[1:, 5]) == {OBJECT}
    if isinstance(value, str):  # so that targets of a time when it was read otherwise are not found again
        assert dataset.annotation_digest("val", "instances") == expected[1]


@pytest.mark.parametrize("value", [1, True, 1.0, "1", "1.0", "true", "TRUE"])
def test_crowds_stay_crowds(edited, value: Any) -> None:
    dataset = edited(_set("iscrowd", value))
    found = dataset.read_annotation("val", 0, "instances")
    assert found.max() == 0
    assert found.min() == -1
    assert set(dataset.read_annotation("val", 0, "boxes")[1:, 5]) == {CROWD}


@pytest.mark.parametrize("value", [2, -1, 0.5, "yes", "2", [], [0], {}, float("nan")])
def test_what_is_neither_is_refused(edited, value: Any) -> None:
    with pytest.raises(DataError, match=r"val2017\.json: annotation number 1 \(id \d+\) .*iscrowd .*, expected 0 or 1"):
        edited(_set("iscrowd", value)).image_ids("val")


def test_numbers_as_text_are_numbers(edited) -> None:
    plain = edited(lambda content: None)
    ids, boxes = plain.image_ids("val"), plain.read_annotation("val", 0, "boxes")
    digest = plain.annotation_digest("val", "boxes")

    def as_text(content: Content) -> None:
        for key in ("id", "height", "width"):
            _set(key, lambda one, key=key: str(one[key]), "images")(content)
        for key in ("id", "image_id", "iscrowd"):
            _set(key, lambda one, key=key: str(one[key]))(content)

    dataset = edited(as_text)
    assert (dataset.image_ids("val"), dataset.annotation_digest("val", "boxes")) == (ids, digest)
    np.testing.assert_array_equal(dataset.read_annotation("val", 0, "boxes"), boxes)
    assert dataset.read_image("val", 0).shape[:2] == dataset.read_annotation("val", 0, "instances").shape


BROKEN: list[tuple[Callable[[Content], Any], str]] = [
    (_set("image_id", 7), r"annotation \d+ is for image 7, which is not listed$"),
    (_set("image_id", "7"), r"annotation \d+ is for image 7, which is not listed$"),
    (lambda c: c["images"].append(dict(c["images"][0])), r"image id \d+ is listed more than once"),
    (lambda c: c["images"].append({**c["images"][0], "id": str(c["images"][0]["id"])}), "listed more than once"),
    (lambda c: c["annotations"].append(dict(c["annotations"][0])), r"annotation id \d+ is listed more than once"),
    (_set("id", "photo", "images"), r"image number 1 \(id 'photo'\) has a field of a wrong type: .*'photo'"),
    (_set("id", 1.5, "images"), r"image number 1 \(id 1\.5\) .*id 1\.5, expected a whole number"),
    (_set("id", True, "images"), r"image number 1 .*id True, expected a whole number"),
    (_set("id", None, "images"), r"image number 1 \(id None\) has a field of a wrong type"),
    (_set("width", 12.5, "images"), "width 12.5, expected a whole number"),
    (_set("width", float("inf"), "images"), "has a field of a wrong type"),
    (_set("height", float("nan"), "images"), "has a field of a wrong type"),
    (_set("file_name", None, "images"), "file_name None, expected the name of a file"),
    (_set("file_name", "", "images"), "file_name '', expected the name of a file"),
    (_set("file_name", "a\0.jpg", "images"), ", expected the name of a file"),
    (_set("area", None), "has a field of a wrong type"),
    (_set("area", 10**400), "has a field of a wrong type"),
    (lambda c: c["annotations"][0].pop("image_id"), r"annotation number 1 \(id \d+\) lacks the field 'image_id'"),
    (lambda c: c["images"][1].pop("id"), r"image number 2 \(id None\) lacks the field 'id'"),
    (lambda c: c["annotations"].insert(0, ["x"]), r"annotation number 1 is of a wrong type: .*, expected its fields"),
    (lambda c: c["images"].insert(0, "x"), "image number 1 is of a wrong type: 'x'"),
]


@pytest.mark.parametrize(("edit", "message"), BROKEN)
def test_the_true_reason_is_told_once(edited, edit: Callable[[Content], Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        edited(edit).image_ids("val")
    assert str(caught.value).count("instances_val2017.json") == 1
    assert ("wrong type" in str(caught.value)) == ("wrong type" in message or ", expected" in message)


def test_an_area_that_orders_nothing_is_refused_with_its_image_alone(edited) -> None:
    dataset = edited(lambda c: c["annotations"][0].update(area=float("nan")))
    rows = range(len(dataset.image_ids("val")))
    refused = []
    for row in rows:
        try:
            dataset.read_annotation("val", row, "instances")
        except DataError as error:
            refused.append(str(error))
    (reason,) = refused
    assert "has the area nan, by which masks are ordered" in reason


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff\xfe", b"", b"{"])
def test_json_that_is_none(edited, data: bytes) -> None:
    dataset = edited(lambda content: None)
    (dataset.root / "annotations" / "instances_val2017.json").write_bytes(data)
    with pytest.raises(DataError, match=r"instances_val2017\.json is not valid JSON .*; download the annotations"):
        dataset.image_ids("val")
