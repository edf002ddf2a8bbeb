"""Caches at rest: feature volumes, base images and targets in plain Zarr v3.

>>> from deapcache.locations import home
>>> [entry.path for entry in list_caches(home("/nowhere"))]
[]
"""

from deapcache.annotations import mirror
from deapcache.cache.cache import Cache
from deapcache.cache.companions import companions
from deapcache.cache.feature_cache import FeatureCache
from deapcache.cache.format import ArraySpec, shard_images_for
from deapcache.cache.index import IndexEntry, lies_elsewhere, list_home, rebuild, require_own, write_index
from deapcache.cache.keeping import kept_true
from deapcache.cache.listing import CacheEntry, find_caches, find_one, list_caches
from deapcache.cache.manifest import Manifest, list_cache, read_manifest, withdraw, write_manifest
from deapcache.cache.names import CLAIMS, features_path, images_path, targets_path
from deapcache.cache.opening import create_cache, open_cache, restore_metadata
from deapcache.cache.parallel import ShardListener, ShardProgress
from deapcache.cache.reading import Reading
from deapcache.cache.removal import Removal, last_written, remove_bad_shards, remove_cache, set_aside
from deapcache.cache.selecting import (
    CacheFolder,
    are_wanted,
    list_folders,
    select_cache,
    select_caches,
    select_folder,
    select_folders,
)
from deapcache.cache.storage import STORAGE_FORMATS, decode_features, encode_cls, encode_features, feature_arrays
from deapcache.cache.transfer import Refused, TransferReport, transfer_cache
from deapcache.cache.verifying import BadShard, VerifyReport, verify_cache
from deapcache.cache.views import HFLIP, ORIGINAL, VIEWS, check_views, name_view

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
    "Reading",
    "Refused",
    "Removal",
    "ShardListener",
    "ShardProgress",
    "TransferReport",
    "VerifyReport",
    "are_wanted",
    "check_views",
    "companions",
    "create_cache",
    "decode_features",
    "encode_cls",
    "encode_features",
    "feature_arrays",
    "features_path",
    "find_caches",
    "find_one",
    "images_path",
    "kept_true",
    "last_written",
    "lies_elsewhere",
    "list_cache",
    "list_caches",
    "list_folders",
    "list_home",
    "mirror",
    "name_view",
    "open_cache",
    "read_manifest",
    "rebuild",
    "remove_bad_shards",
    "remove_cache",
    "require_own",
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
    "withdraw",
    "write_index",
    "write_manifest",
]
