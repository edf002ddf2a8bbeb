"""A pipeline run by the workers of a cluster: the same features, readouts and scores as by one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from deapcache_pipelines import ONE, OTHER

from deapcache.experiments import Outcome, load_pipeline, plan_pipeline, run_pipeline
from deapcache.extraction import open_cluster
from deapcache.locations import LocalLocation

PASSES = f"""\
name: small
backbones: [{ONE}, {OTHER}]
iterations: 2
batch_size: 4
probes: [{{tasks: [foreground], dataset: coco}}]
"""


def kept(home: LocalLocation, folder: str) -> dict[str, bytes]:
    return {
        key: home.read(key)
        for key in home.keys(folder)
        if not key.endswith("manifest.json") and "/provenance/" not in key
    }


def scores(outcome: Outcome) -> dict[str, object]:
    return {result.run: dict(result.scores) for result in outcome.results}


@pytest.mark.slow
def test_workers_give_the_results_of_one_process(plan, write, coco, home, tmp_path: Path):
    alone = run_pipeline(plan(PASSES))
    elsewhere = LocalLocation(tmp_path / "elsewhere")
    told: list[str] = []
    wanted = plan_pipeline(load_pipeline(write(PASSES)), elsewhere, coco, device="cpu")
    with open_cluster(workers=2, device="cpu") as cluster:
        together = run_pipeline(wanted, cluster=cluster, report=lambda name, _: told.append(name))
        again = run_pipeline(wanted, cluster=cluster)
    assert not together.failures
    assert scores(together) == scores(alone)
    assert len(together.probed) == 2
    assert not again.probed
    for folder in ("features", "images", "targets", "readouts"):
        assert kept(elsewhere, folder) == kept(home, folder)
    assert set(told) == {f"{ONE} · coco", f"{OTHER} · coco"}
