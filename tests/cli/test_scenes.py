"""``deapcache scenes export``, which is gone."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("more", [(), ("export",), ("export", "--as", "coco", "--out", "there", "--limit", 1)])
def test_what_was_a_verb_names_what_to_use_instead(cli, more):
    done = cli("scenes", *more)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: `deapcache scenes export` is gone: give --dataset scenes")


def test_it_is_not_offered(cli):
    assert "scenes  " not in cli("--help").out
