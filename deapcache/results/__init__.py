"""What probes came to: result files, tables, intervals and pictures."""

from deapcache.results.frame import Selection, Summary, select, summarise
from deapcache.results.intervals import (
    HomeIntervals,
    Uncertainty,
    UncertaintyOf,
    bootstrap_difference,
    bootstrap_interval,
    paired_difference,
)
from deapcache.results.paper import PaperNumber, paper_ablation, paper_backbones, paper_parameters, paper_score
from deapcache.results.paper_tables import PLAIN, Sheet, comparison_table, layout_blocks, print_layouts
from deapcache.results.paper_tables import WHICH as LAYOUTS
from deapcache.results.pictures import picture_key, save_picture
from deapcache.results.record import (
    ReadoutFile,
    Result,
    Statistics,
    load_readout_file,
    load_results,
    load_statistics,
    save_run,
)
from deapcache.results.tables import Block, make_blocks, markdown, plain_text, print_blocks, print_tables, tables_json

__all__ = [
    "LAYOUTS",
    "PLAIN",
    "Block",
    "HomeIntervals",
    "PaperNumber",
    "ReadoutFile",
    "Result",
    "Selection",
    "Sheet",
    "Statistics",
    "Summary",
    "Uncertainty",
    "UncertaintyOf",
    "bootstrap_difference",
    "bootstrap_interval",
    "comparison_table",
    "layout_blocks",
    "load_readout_file",
    "load_results",
    "load_statistics",
    "make_blocks",
    "markdown",
    "paired_difference",
    "paper_ablation",
    "paper_backbones",
    "paper_parameters",
    "paper_score",
    "picture_key",
    "plain_text",
    "print_blocks",
    "print_layouts",
    "print_tables",
    "save_picture",
    "save_run",
    "select",
    "summarise",
    "tables_json",
]
