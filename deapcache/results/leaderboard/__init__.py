"""The leaderboard: every result of several homes, and the paper's, as a table, Markdown, CSV or one HTML page."""

from deapcache.results.leaderboard.entries import Board, Comparison, Entry, Leaderboard, Line, Score
from deapcache.results.leaderboard.homes import Collected, collect
from deapcache.results.leaderboard.rows import leaderboard
from deapcache.results.leaderboard.writing import FORMATS, Format, file_name, rendered

__all__ = [
    "FORMATS",
    "Board",
    "Collected",
    "Comparison",
    "Entry",
    "Format",
    "Leaderboard",
    "Line",
    "Score",
    "collect",
    "file_name",
    "leaderboard",
    "rendered",
]
