"""What probes came to: result files, tables, intervals and pictures."""

from deapcache.results.frame import Selection, results_frame, select, table_rows
from deapcache.results.intervals import (
    Difference,
    HomeIntervals,
    Uncertainty,
    bootstrap_difference,
    bootstrap_interval,
    holm,
    paired_difference,
)
from deapcache.results.paper import paper_backbones
from deapcache.results.paper_tables import LAYOUTS, PLAIN, layout_json, layout_tables
from deapcache.results.record import (
    ReadoutFile,
    Result,
    load_readout_file,
    load_results,
    load_statistics,
    picture_key,
    save_run,
)
from deapcache.results.tables import Table, make_tables, markdown, plain_text, print_tables

__all__ = [
    "LAYOUTS",
    "PLAIN",
    "Difference",
    "HomeIntervals",
    "ReadoutFile",
    "Result",
    "Selection",
    "Table",
    "Uncertainty",
    "bootstrap_difference",
    "bootstrap_interval",
    "holm",
    "layout_json",
    "layout_tables",
    "load_readout_file",
    "load_results",
    "load_statistics",
    "make_tables",
    "markdown",
    "paired_difference",
    "paper_backbones",
    "picture_key",
    "plain_text",
    "print_tables",
    "results_frame",
    "save_run",
    "select",
    "table_rows",
]
