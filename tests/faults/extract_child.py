"""A real extraction in a process of its own, to be killed: says READY when the first batch has been forwarded."""

import sys
from pathlib import Path

from deapcache.datasets import open_dataset
from deapcache.extraction import ExtractionSettings, ProgressEvent, extract
from deapcache.locations import LocalLocation


def show(event: ProgressEvent) -> None:
    if "decode" not in event.stage:
        print("READY" if event.done < event.total else "LAST", flush=True)


if __name__ == "__main__":
    root, home = sys.argv[1:3]
    settings = ExtractionSettings(batch_size=4)
    reports = extract(
        ["efficientnet-lite0-s16"], open_dataset("coco", Path(root)), LocalLocation(Path(home)),
        splits=["train"], settings=settings, progress=show,
    )  # fmt: skip
    for report in reports:
        print("DONE", report.extracted, flush=True)
