"""Reads a cache from a store that falls silent, and prints the error's class, its message and the seconds it took.

usage: silent_child.py ADDRESS; a process of its own, since how long silence is borne is decided once per process.
"""

from __future__ import annotations

import json
import sys
import time

from deapcache.cache import open_cache
from deapcache.errors import DeapcacheError
from deapcache.locations import locate, stores

if __name__ == "__main__":
    stores.RETRIES.update(max_retries=1, initial_seconds=0.05)
    start = time.monotonic()
    try:
        found = open_cache(locate(sys.argv[1])).read(range(8)).tolist()
        print(json.dumps({"error": "", "found": found}))
    except DeapcacheError as error:
        seconds = time.monotonic() - start
        print(json.dumps({"error": type(error).__name__, "message": str(error), "seconds": seconds}))
