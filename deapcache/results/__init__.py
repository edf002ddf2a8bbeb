"""What probes came to: result files, tables, intervals and pictures."""

from deapcache.results.aggregate import Summary, summarise
from deapcache.results.blocks import Block, markdown, plain_text, print_blocks
from deapcache.results.intervals import bootstrap_difference, bootstrap_interval
from deapcache.results.layouts import WHICH as LAYOUTS
from deapcache.results.paper import PaperNumber, paper_ablation, paper_backbones, paper_parameters, paper_score
from deapcache.results.record import Result, Statistics, load_results, load_statistics, picture_key, save_run
from deapcache.results.selection import Selection, select
from deapcache.results.sheets import PLAIN, Sheet, comparison_table, layout_blocks, print_layouts
from deapcache.results.table import make_blocks, print_tables, tables_json
from deapcache.results.uncertainty import HomeIntervals, Uncertainty, UncertaintyOf, paired_difference
from deapcache.results.weights import ReadoutFile, load_readout_file

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
    "save_run",
    "select",
    "summarise",
    "tables_json",
]
