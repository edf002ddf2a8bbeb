"""What a notebook needs: caches and results by name, as tables, pictures, dask arrays and torch datasets.

Everything here is a thin layer over the rooms below; loading it imports neither torch nor a drawing or table library.
"""

from __future__ import annotations

from deapcache.api.extraction import extract
from deapcache.api.features import Features, open_cache
from deapcache.api.probing import Results, load_results, probe

__all__ = ["Features", "Results", "extract", "load_results", "open_cache", "probe"]
