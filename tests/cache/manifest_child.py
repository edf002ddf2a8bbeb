"""Writes shards of the tests' cache, one after another: HOME FIRST STEP [for ever]."""

import sys

from deapcache_caches import feature_cache, image_ids, volumes

from deapcache.cache import encode_features, flush
from deapcache.locations import locate

home, first, step = locate(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
cache = feature_cache(home)
print("ready", flush=True)
sys.stdin.readline()
for k in range(first, cache.shard_count, step):
    rows = cache.shard_rows(k)
    cache.write_shard(k, encode_features(volumes(rows), "float16", image_ids()[rows.start : rows.stop]))
    flush(cache)
