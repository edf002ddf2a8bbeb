"""Writes a small cache as another user, with limits on files, and says as JSON what became of it.

usage: write_child.py HOME [--nobody] [--file-bytes N]
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from deapcache_caches import feature_cache, fill

from deapcache.errors import DeapcacheError
from deapcache.locations import LocalLocation

NOBODY = 65534


def attempt(home: LocalLocation) -> dict[str, object]:
    try:
        home.require_writable()
        cache = feature_cache(home)
        fill(cache)
    except DeapcacheError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"error": "", "shards": len(cache.present_shards())}


if __name__ == "__main__":
    home, *options = sys.argv[1:]
    if "--file-bytes" in options:
        most = int(options[options.index("--file-bytes") + 1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    if "--nobody" in options:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    print(json.dumps(attempt(LocalLocation(Path(home)))))
