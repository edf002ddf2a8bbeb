"""The command line: one file a verb. Parse, call the library, print."""

from deapcache.cli.app import main

__all__ = ["main"]
