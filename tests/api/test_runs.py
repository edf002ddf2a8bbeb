"""Results as a sequence, as tables and as a data frame."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from deapcache_results import make_facts

import deapcache
from deapcache.errors import ResultsError
from deapcache.locations import LocalLocation
from deapcache.results import Result, save_run


def _save(home: LocalLocation, **changes: object) -> Result:
    nothing = {"a": np.zeros(3)}
    return save_run(
        home,
        make_facts(**changes),  # type: ignore[arg-type]
        statistics=nothing,
        prior_statistics=nothing,
        image_ids=["a", "b", "c"],
        weights=nothing,
    )


def test_a_sequence_of_runs(home: LocalLocation) -> None:
    assert list(deapcache.load_results(home)) == []
    saved = [_save(home, seed=seed) for seed in range(3)]
    found = deapcache.load_results(str(home))
    assert [result.run for result in found] == sorted(result.run for result in saved)
    assert len(found[1:]) == 2
    assert isinstance(found[1:], deapcache.Results)
    assert deapcache.load_results(home, [saved[1].run])[0] == saved[1]
    with pytest.raises(ResultsError, match="run the probe that makes it"):
        deapcache.load_results(home, ["none"])


def test_a_row_for_each_run(home: LocalLocation) -> None:
    first, second = _save(home, seed=0, iou=0.5), _save(home, seed=1, iou=0.75, lr=3e-3)
    frame = deapcache.load_results(home).to_frame()
    by_run = frame.set_index("run")
    assert len(frame) == 2
    for result, score, lr in ((first, 0.5, 1e-3), (second, 0.75, 3e-3)):
        row = by_run.loc[result.run]
        assert (row.metric, row.score, row.prior, row.lr, row.iterations) == ("iou", score, 0.1, lr, 100)
        assert (row.task, row.backbone, row.readout, row.seed) == ("boundaries", "tiny", "deap", result.seed)
        assert (row.features, row.protocol) == (result.caches["val"]["digest"], result.protocol_digest)
    assert frame.groupby("backbone").score.mean()["tiny"] == 0.625
    assert (frame.date.dt.tz_convert("UTC").dt.year >= 2024).all()


def test_a_row_for_each_metric(home: LocalLocation) -> None:
    _save(home)
    frame = deapcache.load_results(home).to_frame(all_metrics=True)
    found = frame[["metric", "score", "prior", "unit", "higher_is_better"]].to_dict("records")
    assert found == [
        {"metric": "iou", "score": 0.5, "prior": 0.1, "unit": "", "higher_is_better": True},
        {"metric": "ce", "score": 0.3, "prior": 0.7, "unit": "nats", "higher_is_better": False},
    ]


def test_no_results_are_an_empty_frame_with_all_columns(home: LocalLocation) -> None:
    _save(home)
    full = deapcache.load_results(home)
    empty = full[:0].to_frame()
    assert list(empty.columns) == list(full.to_frame().columns)
    assert isinstance(empty, pd.DataFrame)
    assert len(empty) == 0


def test_tables_average_seeds_and_never_mix_protocols(home: LocalLocation) -> None:
    for seed, iou in enumerate((0.4, 0.6)):
        _save(home, seed=seed, iou=iou)
    text = repr(deapcache.load_results(home))
    assert text.splitlines()[0] == f"2 results in {home}"
    assert "0.5000 ± 0.1414" in text
    assert "protocol:" not in text
    _save(home, iterations=7, iou=0.9)
    text = repr(deapcache.load_results(home))
    assert text.count("boundaries · coco") == 3  # two tables, and what the note names
    assert "mixed: boundaries · coco measured unlike the first, protocol.iterations: " in text


def test_html_is_escaped(home: LocalLocation) -> None:
    _save(home, backbone="<script>alert(1)</script>")
    page = deapcache.load_results(home)._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<table>") == 1
