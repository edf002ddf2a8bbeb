"""Golden files are compared to the letter, numbers within a tolerance, and never written on CI."""

from __future__ import annotations

from pathlib import Path

import pytest
from deapcache_golden import Golden, masked, shown


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Golden:
    """Two texts and a document, just written."""
    monkeypatch.delenv("CI", raising=False)
    writer = Golden(tmp_path, "write")
    writer.texts("texts", {"one": "1\n", "two": "2"})
    writer.json("document", {"a": 1.0, "b": [1, "x"]})
    return Golden(tmp_path)


def test_what_is_as_written_passes(written: Golden) -> None:
    written.texts("texts", {"one": "1\n", "two": "2\n"})
    written.json("document", {"a": 1.0, "b": [1, "x"]})
    written.json("document", {"a": 1.00005, "b": [1, "x"]}, tolerance=1e-4)


@pytest.mark.parametrize(
    "found",
    [
        {"a": 1.0002, "b": [1, "x"]},
        {"a": 1, "b": [1, "x"]},
        {"a": 1.0, "b": [2, "x"]},
        {"a": 1.0, "b": [1, "y"]},
        {"a": 1.0, "b": [1]},
        {"b": [1, "x"], "a": 1.0},
        {"a": None, "b": [1, "x"]},
    ],
)
def test_any_other_document_fails(written: Golden, found: object) -> None:
    with pytest.raises(pytest.fail.Exception, match="document has changed"):
        written.json("document", found, tolerance=1e-4)


def test_changed_missing_and_additional_texts_fail(written: Golden) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"(?s)texts/one has changed.*-1\n\+one"):
        written.texts("texts", {"one": "one", "two": "2"})
    with pytest.raises(AssertionError, match="golden files of texts"):
        written.texts("texts", {"one": "1"})
    with pytest.raises(AssertionError, match="no golden file other"):
        written.text("other", "1")


def test_writing_replaces_a_folder(tmp_path: Path, written: Golden) -> None:
    Golden(tmp_path, "write").texts("texts", {"two": "3"})
    written.texts("texts", {"two": "3"})


def test_ci_does_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(RuntimeError, match="made by people"):
        Golden(tmp_path, "write")
    with pytest.raises(ValueError, match="expected write"):
        Golden(tmp_path, "wirte")


def test_masks_and_places() -> None:
    assert masked({"date": 1, "runs": [{"date": 2, "task": "x"}]}, ["date"]) == {
        "date": "*",
        "runs": [{"date": "*", "task": "x"}],
    }
    assert shown("at /tmp/x/a   \nend", {"HOME": "/tmp/x"}) == "at HOME/a\nend\n"
