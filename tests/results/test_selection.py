"""Which results are shown."""

from __future__ import annotations

import pytest

from deapcache.errors import ResultsError
from deapcache.results import Selection, select
from deapcache.results.record import make_result


@pytest.fixture
def some(facts):
    """Two tasks by two readouts."""
    return [make_result(facts(task=task, readout=readout)) for task in ("depth", "voc") for readout in ("a", "b")]


def test_nothing_wanted_is_everything(some) -> None:
    assert select(some, Selection()) == some
    assert select([], Selection(tasks=["depth"])) == []


def test_every_kind_narrows(some, facts) -> None:
    assert select(some, Selection(tasks=["voc"], readouts=["b"])) == [some[3]]
    assert select(some, Selection(backbones=["tiny"], datasets=["coco", "scenes"])) == some
    assert select(some, Selection(protocols=[some[1].protocol_digest[:12], some[2].protocol_digest])) == some[1:3]
    other = make_result(facts(storage="int8"))
    assert select([*some, other], Selection(caches=[other.caches["train"]["digest"][:8]])) == [other]


def test_where_nothing_is_left_what_there_is_is_named(some) -> None:
    with pytest.raises(ResultsError, match="no result of the tasks dpeth: there are depth, voc"):
        select(some, Selection(tasks=["dpeth"]))
    with pytest.raises(ResultsError, match=some[0].protocol_digest[:12]):
        select(some, Selection(protocols=["zz"]))
