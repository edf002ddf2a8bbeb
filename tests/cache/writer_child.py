"""Run by tests as a process of its own: create a cache and write its shards, again and again if asked.

usage: writer_child.py HOME MODE, MODE being "once", "forever" (delete what is there, write anew) or "create".
"""

from __future__ import annotations

import sys
from pathlib import Path

from deapcache_caches import feature_cache, fill, shard_file

from deapcache.locations import LocalLocation


def main() -> None:
    home, mode = LocalLocation(Path(sys.argv[1])), sys.argv[2]
    print("ready", flush=True)
    sys.stdin.readline()  # start together
    cache = feature_cache(home)
    print("created", flush=True)
    while mode != "create":
        fill(cache)
        if mode == "once":
            break
        for k in range(cache.shard_count):
            shard_file(cache, k).unlink(missing_ok=True)
    print("done", flush=True)


if __name__ == "__main__":
    main()
