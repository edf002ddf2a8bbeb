"""Bundles: results in one zip file, to be sent to whoever keeps a leaderboard, and to be checked and merged there."""

from deapcache.results.bundle.adding import BundleReport, add_bundle
from deapcache.results.bundle.packing import Packed, find_runs, pack_bundle

__all__ = ["BundleReport", "Packed", "add_bundle", "find_runs", "pack_bundle"]
