"""On real photographs: pretrained features beat their untrained control and what needs no image."""

from __future__ import annotations

import pytest

from deapcache.datasets import open_dataset
from deapcache.experiments import probe
from deapcache.extraction import extract
from deapcache.probing import ProbeConfig

PRETRAINED = "efficientnet-lite0-s16"
CONTROL = f"{PRETRAINED}@untrained"


@pytest.mark.slow
def test_pretrained_features_beat_their_untrained_control(coco_mini, home):
    list(extract([PRETRAINED, CONTROL], open_dataset("coco", coco_mini), home))
    config = ProbeConfig(
        tasks=["boundaries", "foreground"],
        backbones=[PRETRAINED, CONTROL],
        iterations=150,
        batch_size=8,
        lrs=(3e-3,),
    )
    results = {(one.result.task, one.result.backbone): one.result for one in probe(home, config)}
    border, border_control = results["boundaries", PRETRAINED], results["boundaries", CONTROL]
    assert border.scores["cross_entropy"] < border_control.scores["cross_entropy"] - 0.02
    assert border.scores["average_precision"] > border_control.scores["average_precision"] + 0.05
    assert border.scores["cross_entropy"] < border.prior["cross_entropy"]
    front, front_control = results["foreground", PRETRAINED], results["foreground", CONTROL]
    assert front.scores["mean_iou"] > front_control.scores["mean_iou"] + 0.05
    assert front.scores["mean_iou"] > front.prior["mean_iou"] + 0.1
