"""What probes came to: result files, tables, intervals and pictures."""

from deapcache.results.aggregate import Summary, summarise
from deapcache.results.intervals import bootstrap_difference, bootstrap_interval
from deapcache.results.pictures import picture_key, save_picture
from deapcache.results.record import Result, Statistics, load_results, load_statistics, save_run
from deapcache.results.table import make_blocks, plain_text, print_tables
from deapcache.results.weights import ReadoutFile, load_readout_file

__all__ = [
    "ReadoutFile",
    "Result",
    "Statistics",
    "Summary",
    "bootstrap_difference",
    "bootstrap_interval",
    "load_readout_file",
    "load_results",
    "load_statistics",
    "make_blocks",
    "picture_key",
    "plain_text",
    "print_tables",
    "save_picture",
    "save_run",
    "summarise",
]
