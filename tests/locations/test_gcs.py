"""Google Cloud Storage as a home, against a small server that speaks its JSON interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import deapcache_gcs
from deapcache_gcs import environment_of, gcs_served

_CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
from deapcache_caches import feature_cache, fill, volumes
from deapcache.cache import list_caches
from deapcache.locations import locate
import numpy as np

home = locate("gs://lab/home")
home.require_writable()
first, second = home.publish("key", b"first"), home.publish("key", b"second")
before = home.etag("key")
home.publish("key", b"third", replace=True)
cache = feature_cache(home, count=6)
fill(cache)
(entry,) = list_caches(home)
found = entry.open()
rows = [5, 0, 3]
same = bool((found.read_features(rows) == volumes(rows).astype(np.float16)).all())
after = home.etag("key")
home.delete("key")
print(json.dumps([first, second, before != after, same, found.is_complete(), found.stored_bytes(), home.exists("key")]))
"""


def test_a_home_in_google_cloud_storage() -> None:
    with gcs_served() as (url, objects, _):
        environment = {**os.environ, **environment_of(url)}
        support = str(Path(deapcache_gcs.__file__).parent)
        command = [sys.executable, "-c", _CHILD, support]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    shards = {name: data for name, (data, _) in objects.items() if "/features/c." in name}
    assert json.loads(done.stdout) == [True, False, True, True, True, sum(map(len, shards.values())), False]
    assert len(shards) == 6
    assert "home/key" not in objects
