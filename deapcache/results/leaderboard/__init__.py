"""The leaderboard: every result of several homes, and the paper's, as a table, Markdown, CSV or one HTML page."""

from deapcache.results.frame import known_entry
from deapcache.results.leaderboard.board import Collected, Leaderboard, collect, leaderboard
from deapcache.results.leaderboard.page import FORMATS, Format, file_name, rendered, report_page
from deapcache.results.leaderboard.text import leaderboard_tables

__all__ = [
    "FORMATS",
    "Collected",
    "Format",
    "Leaderboard",
    "collect",
    "file_name",
    "known_entry",
    "leaderboard",
    "leaderboard_tables",
    "rendered",
    "report_page",
]
