"""Scenes written out in the layouts that other datasets are distributed in."""

from deapcache.datasets.scenes.export.running import FORMATS, ExportReport, export_scenes

__all__ = ["FORMATS", "ExportReport", "export_scenes"]
