"""One of several extractors of a cache in a process of its own, on a device that takes its time.

It says READY before its first forward pass and waits for a line, so that all begin at once on a busy machine too.
"""

import sys
import time
from pathlib import Path

import torch

from deapcache.backbones import Backbone, Output
from deapcache.datasets import open_dataset
from deapcache.extraction import ExtractionSettings, extract
from deapcache.locations import LocalLocation

forward = Backbone.outputs
begun = False


def slowly(self: Backbone, images: torch.Tensor) -> tuple[Output, ...]:
    global begun
    if not begun:
        begun = True
        print("READY", flush=True)
        sys.stdin.readline()
    time.sleep(0.2)  # the cores of a test machine are few: this is another device's work
    return forward(self, images)


if __name__ == "__main__":
    root, home, backbone = sys.argv[1:4]
    torch.set_num_threads(1)
    Backbone.outputs = slowly  # type: ignore[method-assign]
    dataset = open_dataset("coco", Path(root))
    settings = ExtractionSettings(batch_size=4)
    for report in extract([backbone], dataset, LocalLocation(Path(home)), splits=["train"], settings=settings):
        print("DONE", report.extracted, flush=True)
