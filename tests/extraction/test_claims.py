"""Claims: one of several gets a unit, an abandoned one is free again in time, and nothing that goes wrong does harm."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from deapcache.extraction.claims import Claims, new_claim
from deapcache.locations import LocalLocation

SECONDS = 60.0


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


Open = Callable[[str], Claims]


@pytest.fixture
def claims(home: LocalLocation, clock: Clock) -> Open:
    return lambda writer: Claims(home, writer, seconds=SECONDS, clock=clock)


def write(home: LocalLocation, unit: int, **changes: object) -> None:
    content = {**json.loads(new_claim("another").to_bytes()), "machine": "elsewhere", **changes}
    home.publish(f"claims/{unit}.json", json.dumps(content).encode(), replace=True)


def test_one_of_two_gets_a_unit_and_the_other_when_it_is_given_back(claims, home):
    with claims("a") as a, claims("b") as b:
        assert a.take(3)
        assert not b.take(3)
        assert b.take(4)
        assert b.owner(3) is not None
        assert b.owner(3).pid == os.getpid()
        a.release(3)
        assert b.take(3)
    assert home.keys("claims") == []


def test_an_error_gives_back_what_is_held(claims, home):
    def interrupted() -> None:
        with claims("a") as a:
            assert a.take(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert home.keys("claims") == []


def test_a_claim_that_nobody_renews_is_void_after_its_time_and_not_before(claims, home, clock):
    write(home, 5)
    with claims("b") as b:
        assert not b.take(5)
        clock.now += SECONDS - 1
        assert not b.take(5)
        clock.now += 1
        assert b.take(5)
        assert b.owner(5).writer == "b"


def test_a_renewed_claim_stays_however_long_it_takes(claims, clock):
    with claims("a") as a, claims("b") as b:
        a.take(0)
        for _ in range(5):
            assert not b.take(0)
            clock.now += SECONDS - 1
            a.beat()


@pytest.mark.parametrize("odd", [{"beat": -(10**15)}, {"beat": 4102444800, "host": "from the future"}, {"pid": "x"}])
def test_what_clocks_and_counters_say_elsewhere_plays_no_part(claims, home, clock, monkeypatch, odd):
    write(home, 1, **odd)
    with claims("b") as b:
        assert not b.take(1)
        monkeypatch.setattr(time, "time", lambda: 0.0)
        assert not b.take(1)
        monkeypatch.setattr(time, "time", lambda: 4e9)
        assert not b.take(1)
        clock.now += SECONDS
        assert b.take(1)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"writer": 1}', b"\xff\xfe", b"null"])
def test_a_file_that_is_no_claim_is_void_in_time(claims, home, clock, content):
    home.publish("claims/1.json", content)
    with claims("b") as b:
        assert not b.take(1)
        assert b.owner(1) is None
        clock.now += SECONDS
        assert b.take(1)


def test_a_process_of_this_machine_that_has_ended_claims_nothing(claims, home):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    write(home, 0, machine=new_claim("").machine, pid=ended.pid)
    write(home, 1, machine=new_claim("").machine, pid=os.getpid())
    write(home, 2, machine="another container", pid=ended.pid)
    with claims("b") as b:
        assert [b.take(unit) for unit in range(3)] == [True, False, False]


def test_who_slept_too_long_does_not_disturb_who_took_over(claims, home, clock):
    with claims("a") as a, claims("b") as b:
        a.take(0)
        write(home, 0)  # another observer took it over meanwhile
        a.beat()
        assert b.owner(0).writer == "another"
        a.release(0)
        assert b.owner(0).writer == "another"


def test_the_heart_beats_by_itself(home):
    with Claims(home, "a", seconds=0.3) as a:
        a.take(0)
        first = home.read("claims/0.json")
        deadline = time.monotonic() + 600
        while home.read("claims/0.json") == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert home.read("claims/0.json") != first


def test_a_unit_taken_while_the_run_ends_is_given_back(claims, home):
    with claims("a") as a:
        pass
    a.take(7)
    assert home.keys("claims") == []


def test_where_no_claim_can_be_written_every_unit_is_free(claims, home):
    (home.path / "claims").write_text("a file in the way")
    with claims("a") as a:
        assert a.take(0)
        assert a.take(0)
        assert "cannot write" in a.problem


def test_a_group_can_take_over_what_a_private_umask_left(claims, home, clock):
    home.path.chmod(0o2770)
    before = os.umask(0o077)
    try:
        a = claims("a")
        a.take(0)
    finally:
        os.umask(before)
    folder, file = home.path / "claims", home.path / "claims" / "0.json"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2770
    assert stat.S_IMODE(file.stat().st_mode) == 0o660
    a.__exit__()
