"""Caches at rest: feature volumes, base images and targets in plain Zarr v3.

>>> from deapcache.locations import home
>>> [entry.path for entry in list_caches(home("/nowhere"))]
[]
"""

from deapcache.annotations import mirror
from deapcache.cache.cache import Cache, FeatureCache, create_cache, open_cache, restore_metadata
from deapcache.cache.catalog import (
    CacheEntry,
    CacheFolder,
    as_text,
    find_caches,
    find_one,
    list_caches,
    list_folders,
    match_filters,
    related_caches,
    select_cache,
    select_caches,
    select_folder,
    select_folders,
)
from deapcache.cache.features import STORAGE_FORMATS, decode_features, encode_cls, encode_features, feature_arrays
from deapcache.cache.format import ArraySpec, shard_images_for
from deapcache.cache.names import (
    CLAIMS,
    HFLIP,
    ORIGINAL,
    VIEWS,
    check_views,
    features_path,
    images_path,
    name_view,
    targets_path,
)
from deapcache.cache.progress import Progress, ProgressEvent, no_progress
from deapcache.cache.reading import Reading
from deapcache.cache.remove import Removal, last_written, remove_bad_shards, remove_cache, set_aside
from deapcache.cache.transfer import RefusedFile, TransferReport, transfer_cache
from deapcache.cache.verify import BadShard, VerifyReport, verify_cache
from deapcache.cache.web_index import (
    IndexEntry,
    Manifest,
    flush,
    link_target,
    list_cache,
    list_home,
    read_manifest,
    rebuild,
    refresh_manifest,
    remove_from_index,
    remove_from_manifest,
    require_inside_home,
    write_index,
    write_manifest,
)

__all__ = [
    "CLAIMS",
    "HFLIP",
    "ORIGINAL",
    "STORAGE_FORMATS",
    "VIEWS",
    "ArraySpec",
    "BadShard",
    "Cache",
    "CacheEntry",
    "CacheFolder",
    "FeatureCache",
    "IndexEntry",
    "Manifest",
    "Progress",
    "ProgressEvent",
    "Reading",
    "RefusedFile",
    "Removal",
    "TransferReport",
    "VerifyReport",
    "as_text",
    "check_views",
    "create_cache",
    "decode_features",
    "encode_cls",
    "encode_features",
    "feature_arrays",
    "features_path",
    "find_caches",
    "find_one",
    "flush",
    "images_path",
    "last_written",
    "link_target",
    "list_cache",
    "list_caches",
    "list_folders",
    "list_home",
    "match_filters",
    "mirror",
    "name_view",
    "no_progress",
    "open_cache",
    "read_manifest",
    "rebuild",
    "refresh_manifest",
    "related_caches",
    "remove_bad_shards",
    "remove_cache",
    "remove_from_index",
    "remove_from_manifest",
    "require_inside_home",
    "restore_metadata",
    "select_cache",
    "select_caches",
    "select_folder",
    "select_folders",
    "set_aside",
    "shard_images_for",
    "targets_path",
    "transfer_cache",
    "verify_cache",
    "write_index",
    "write_manifest",
]
