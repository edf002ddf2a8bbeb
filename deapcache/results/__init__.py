"""What probes came to: result files, tables, intervals and pictures."""

from deapcache.results.frame import Selection, results_frame, select, table_rows
from deapcache.results.intervals import (
    Difference,
    HomeIntervals,
    Uncertainty,
    UncertaintyOf,
    bootstrap_difference,
    bootstrap_interval,
    holm,
    paired_difference,
)
from deapcache.results.paper import PaperNumber, paper_ablation, paper_backbones, paper_parameters, paper_score
from deapcache.results.paper_tables import LAYOUTS, PLAIN, layout_json, layout_tables
from deapcache.results.record import (
    ReadoutFile,
    Result,
    Statistics,
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
    "PaperNumber",
    "ReadoutFile",
    "Result",
    "Selection",
    "Statistics",
    "Table",
    "Uncertainty",
    "UncertaintyOf",
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
    "paper_ablation",
    "paper_backbones",
    "paper_parameters",
    "paper_score",
    "picture_key",
    "plain_text",
    "print_tables",
    "results_frame",
    "save_run",
    "select",
    "table_rows",
]
