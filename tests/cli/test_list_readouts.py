"""``deapcache list readouts``."""

from __future__ import annotations

import json

from deapcache.experiments import count_parameters


def test_readouts_and_their_sizes(cli):
    done = cli("list", "readouts")
    assert done.code == 0
    rows = {line.split()[0]: line for line in done.out.splitlines()[1:]}
    assert "8, 16, 32, 64, 128" in rows["bicubic"]
    assert "8, 16" not in rows["linear"]
    assert "--upsampler FILE" in rows["featup"]


def test_parameters_as_the_paper_prints_them(cli):
    done = cli("list", "readouts", "--params")
    assert done.code == 0
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()[2:]}
    assert len(rows) == 18
    assert rows["siglip-so"] == ["0.073", "0.062", "0.125", "0.066", "0.107", "0.062"]
    assert "boundaries  detection" in done.out.splitlines()[1]


def test_parameters_of_another_readout(cli):
    done = json.loads(cli("list", "readouts", "--params", "--readout", "bicubic:32", "--json").out)
    assert done == {"readout": "bicubic:32", "parameters": count_parameters("bicubic:32")}


def test_json_has_the_parameters_of_every_readout(cli):
    rows = {row["name"]: row for row in json.loads(cli("list", "readouts", "--json").out)}
    assert rows["deap"]["parameters"] == count_parameters("deap")
    assert rows["deap"]["sizes"] == [8, 16, 32, 64, 128]
    assert rows["featup"]["parameters"]["dinov2"]["voc"] == 16 * 769 + 21 * 17
    assert rows["linear"]["sizes"] == []


def test_bad_requests_are_one_line(cli):
    for arguments, says in (
        (("--readout", "bicubic"), "give --params"),
        (("--params", "--readout", "bicubik"), "did you mean bicubic"),
        (("--params", "--readout", "deap:9"), "expected one of 8"),
    ):
        done = cli("list", "readouts", *arguments)
        assert done.code == 2
        assert says in done.err
        assert len(done.err.strip().splitlines()) == 1
