"""Run by tests as a process of its own, to be killed: copies a cache shard by shard, one line for each.

usage: transfer_child.py SOURCE DESTINATION
"""

from __future__ import annotations

import sys

from deapcache.cache import ProgressEvent, open_cache, transfer_cache
from deapcache.locations import locate


def show(event: ProgressEvent) -> None:
    print(event.done, event.total, flush=True)


if __name__ == "__main__":
    transfer_cache(open_cache(locate(sys.argv[1])), locate(sys.argv[2]), progress=show)
    print("whole", flush=True)
