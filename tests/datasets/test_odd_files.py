"""Every kind of odd file that real collections contain: read as the field does, or refused by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from deapcache_odd_cases import CASES, SIZE, Outcome, make_odd_folder
from PIL import Image

from deapcache.datasets import Dataset, open_dataset
from deapcache.datasets.base import sample_order
from deapcache.datasets.io import decode_image, image_size, resize_image
from deapcache.errors import DataError, MissingDataError
from deapcache.regions import CROP, SQUASH, seen_region

REFUSALS = (DataError, MissingDataError)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, dict[str, Outcome]]:
    """The folder, with every row listed, and what must become of each."""
    root = tmp_path_factory.mktemp("data") / "odd"
    outcomes = make_odd_folder(root)
    return open_dataset("folder:odd", root).tolerant(), outcomes


def test_there_are_more_than_forty_and_each_is_one_row(odd: tuple[Dataset, dict[str, Outcome]]) -> None:
    dataset, outcomes = odd
    assert len(outcomes) > 40
    assert dataset.image_ids("train") == tuple(sample_order(outcomes))
    refused = [name for name, outcome in outcomes.items() if isinstance(outcome, str)]
    assert len(refused) > 20
    assert len(outcomes) - len(refused) > 20


@pytest.mark.parametrize("name", CASES)
def test_an_odd_file_is_read_as_it_is_meant_or_named(odd: tuple[Dataset, dict[str, Outcome]], name: str) -> None:
    dataset, outcomes = odd
    outcome, row = outcomes[name], dataset.image_ids("train").index(name)
    if isinstance(outcome, str):
        with pytest.raises(REFUSALS, match=outcome):
            _read(dataset, row)
        return
    read = _read(dataset, row)
    for kind, expected in outcome.items():
        np.testing.assert_array_equal(read[kind], expected, err_msg=kind)
        assert read[kind].dtype == {"image": "u1", "classes": "u1", "instances": "i4", "depth": "f4"}[kind]
    picture = dataset.picture("train", row)
    for size, fit in (((9, 4), SQUASH), ((9, 4), CROP), (picture.size[::-1], SQUASH), ((50, 70), CROP)):
        seen = Image.fromarray(seen_region(read["image"].shape[:2], size, fit).cut(read["image"]))
        expected = np.asarray(seen.resize(size[::-1], Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(resize_image(picture, size, fit), expected, err_msg=f"{size} {fit}")


def _read(dataset: Dataset, row: int) -> dict[str, np.ndarray]:
    image = dataset.read_image("train", row)
    return {"image": image, **{kind: dataset.read_annotation("train", row, kind) for kind in dataset.annotations}}


def test_without_leave_the_listing_names_the_first_and_counts(odd: tuple[Dataset, dict[str, Outcome]]) -> None:
    strict = open_dataset("folder:odd", odd[0].root)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=rf"5 of {len(CASES)} images cannot be read.*--on-error skip"):
        strict.image_ids("train")
    assert strict.image_ids("val") == ("sound 0", "sound 1", "sound 2")


def test_the_rest_is_a_dataset_of_its_own(odd: tuple[Dataset, dict[str, Outcome]]) -> None:
    dataset, outcomes = odd
    refused = {name: "odd" for name, outcome in outcomes.items() if isinstance(outcome, str)}
    rest = open_dataset("folder:odd", odd[0].root).without({"train": refused})  # type: ignore[attr-defined]
    assert rest.image_ids("train") == tuple(sample_order(set(outcomes) - set(refused)))
    assert rest.omitted == {"train": refused}
    assert len(rest.image_digests("train")) == len(outcomes) - len(refused)
    for row, name in enumerate(rest.image_ids("train")):
        np.testing.assert_array_equal(rest.read_image("train", row), outcomes[name]["image"])
    assert rest.image_ids("val") == dataset.image_ids("val")


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["jpg", "png", "tiff", "webp"])
def test_the_header_tells_the_image_size(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / f"image.{kind}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if kind == "tiff" else {"exif": exif}
    Image.new("RGB", SIZE[::-1]).save(path, **options)
    assert image_size(path) == decode_image(path).shape[:2]
    assert image_size(path) == (SIZE[::-1] if orientation in (5, 6, 7, 8) else SIZE)
