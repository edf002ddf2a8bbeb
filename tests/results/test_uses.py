"""When caches were last used: by the results that name them, whatever version wrote these."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from deapcache.locations import LocalLocation
from deapcache.results.last_used import last_uses


def test_the_newest_result_that_names_a_cache_counts(home: LocalLocation, tmp_path: Path) -> None:
    mine = LocalLocation(tmp_path / "mine")
    for place, name, date, digests in (
        (home, "a", "2026-01-01T00:00:00+00:00", ["f1", "t1"]),
        (home, "b", "2026-03-01T00:00:00+01:00", ["f1"]),
        (mine, "c", "2026-02-01T00:00:00", ["f2", "t1"]),
    ):
        caches = {str(number): {"digest": digest} for number, digest in enumerate(digests)}
        place.publish(f"results/{name}.json", json.dumps({"schema": 99, "date": date, "caches": caches}).encode())
    home.publish("results/a.png", b"no result")
    found = last_uses([home, mine])
    assert found.unreadable == ()
    assert found.last == {
        "f1": datetime(2026, 2, 28, 23, tzinfo=UTC),
        "t1": datetime(2026, 2, 1, tzinfo=UTC),
        "f2": datetime(2026, 2, 1, tzinfo=UTC),
    }


def test_results_that_cannot_be_read_are_named(home: LocalLocation) -> None:
    for name, content in (("a", b"{"), ("b", b"[]"), ("c", b'{"date": "today", "caches": {}}'), ("d", b"\xff")):
        home.publish(f"results/{name}.json", content)
    found = last_uses([home])
    assert found.unreadable == tuple(f"{home}/results/{name}.json" for name in "abcd")
    assert last_uses([LocalLocation(home.path / "nowhere")]).last == {}
