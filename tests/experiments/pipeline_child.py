"""A real pipeline run in a process of its own, that is killed when the second pass begins to train."""

import os
import signal
import sys
from pathlib import Path

from deapcache.experiments import load_pipeline, plan_pipeline, run_pipeline
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeProgress

passes: set[str] = set()


def die_in_the_second(name: str, _: ProbeProgress) -> None:
    passes.add(name)
    if len(passes) == 2:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    file, root, home = sys.argv[1:4]
    plan = plan_pipeline(load_pipeline(file), LocalLocation(Path(home)), Path(root), device="cpu")
    run_pipeline(plan, report=die_in_the_second)
