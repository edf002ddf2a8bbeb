"""The command in a run's panel makes that very run."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
from deapcache_results import make_facts

from deapcache.cli import main
from deapcache.locations import LocalLocation
from deapcache.results import load_results, save_run
from deapcache.results.leaderboard import collect, leaderboard, rendered
from deapcache.results.leaderboard.reproduce import reproduce_commands


def test_the_command_gives_the_same_run_and_score(real_home, tmp_path, capsys):
    copy = LocalLocation(tmp_path / "copy")
    shutil.copytree(real_home.path, copy.path)
    (wanted,) = [r for r in load_results(copy) if r.task == "foreground" and "untrained" in r.backbone]
    shutil.rmtree(copy.path / "results")
    extract, probe = reproduce_commands(wanted)
    assert shlex.split(extract)[:6] == ["deapcache", "extract", "--backbone", wanted.backbone, "--dataset", "coco"]
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(probe)[1:], "--home", str(copy), "--device", "cpu"])
    assert ended.value.code == 0, capsys.readouterr().err
    (again,) = load_results(copy)
    assert again.run == wanted.run
    assert again.scores == pytest.approx(wanted.scores, rel=1e-5)


def test_values_are_quoted_and_a_limit_of_one_split_is_no_limit_of_both(home, arrays):
    odd = save_run(home, make_facts(backbone="a; rm -rf ~"), **arrays, command=["deapcache", "probe", "a b"])
    page = rendered(leaderboard(collect([home]), intervals=False, paper=False), "html")
    (panel,) = json.loads(page.partition('id="data">')[2].partition("</script>")[0]).values()
    assert [run["recorded"] for run in panel["runs"]] == ["deapcache probe 'a b'"]
    assert reproduce_commands(odd) == []  # its weight decay is not known
    facts = make_facts(backbone="a; rm -rf ~", limit=4)
    facts["protocol"]["optimiser"]["weight_decay"] = 1e-4
    _, probe = reproduce_commands(save_run(home, facts, **arrays))
    assert "--backbone 'a; rm -rf ~'" in probe
    assert "--limit 4" in probe
    facts["protocol"]["train_limit"], facts["protocol"]["val_limit"] = 4, 2
    assert reproduce_commands(save_run(home, facts, **arrays)) == []
