"""Scenes written out in the layouts that other datasets are distributed in, for tests of their loaders."""

from deapcache_export.running import FORMATS, export_scenes

__all__ = ["FORMATS", "export_scenes"]
