"""``deapcache cache``: looking at the caches of a home, and looking after them; one file a group of commands."""

from __future__ import annotations

from deapcache.cli.cache.diff import diff_command
from deapcache.cli.cache.info import info_command
from deapcache.cli.cache.ls import list_command
from deapcache.cli.cache.remove import prune_command, rm_command
from deapcache.cli.cache.repair import repair_command
from deapcache.cli.cache.transfer import pull_command, push_command
from deapcache.cli.cache.verify import verify_command
from deapcache.cli.options import App

app = App(help="Look at the caches of a home, and look after them.", no_args_is_help=True)
app.command("ls")(list_command)
app.command("info")(info_command)
app.command("diff")(diff_command)
app.command("verify")(verify_command)
app.command("repair")(repair_command)
app.command("push")(push_command)
app.command("pull")(pull_command)
app.command("rm")(rm_command)
app.command("prune")(prune_command)
