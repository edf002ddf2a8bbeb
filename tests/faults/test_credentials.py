"""Passwords, signatures and keys reach no message, no file of a home and no output."""

from __future__ import annotations

import subprocess
from functools import partial

import pytest
from deapcache_bucket import KEYS, S3Bucket
from deapcache_faults import Tally, environment
from deapcache_proxy import always, proxied
from deapcache_testing import deapcache

from deapcache.errors import LocationError, UsageError
from deapcache.locations import locate, redacted, stores

SECRET = "pass/w0rd+of=ann"
HOME = "http://ann:pa55-of-ann@127.0.0.1:9/lab"


def test_what_is_shown_of_an_address() -> None:
    assert redacted("s3://lab/home") == "s3://lab/home"
    assert redacted("/home/ann@lab/a?b=c") == "/home/ann@lab/a?b=c"
    assert redacted(f"at {HOME}/x: no") == "at http://***@127.0.0.1:9/lab/x: no"
    assert redacted("https://a:b@c@host/d") == "https://***@host/d"
    signed = "https://host/lab?X-Amz-Credential=AK%2F2&X-Amz-Signature=99aa#top, https://other/?sig=1"
    assert redacted(signed) == "https://host/lab?X-Amz-Credential=***&X-Amz-Signature=***#top, https://other/?sig=***"
    answer = (
        "403 <Code>No</Code><AWSAccessKeyId>AKIA1</AWSAccessKeyId><StringToSign>a\nb</StringToSign><SignatureProvided>9"
    )
    hidden = (
        "403 <Code>No</Code><AWSAccessKeyId>***</AWSAccessKeyId><StringToSign>***</StringToSign><SignatureProvided>***"
    )
    assert redacted(answer) == hidden


def test_a_key_of_the_environment_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert redacted(f"signed with {SECRET}!") == "signed with ***!"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")  # a stand-in: hiding it would spoil every message
    assert redacted("this is a test") == "this is a test"


ADDRESSES = [
    "https://host/lab?X-Amz-Signature=99aa",
    "https://host/lab#99aa",
    HOME,
    "http://ann:99aa@b@host/lab",
    "s3://AKIA1:99aa@lab/home",
    "s3://lab/home?sig=99aa",
    "gs://99aa@lab",
    "ftp://ann:99aa@host",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_with_credentials_are_refused_without_repeating_them(tally: Tally, address: str) -> None:
    with tally.fault("credentials in an address", "UsageError that hides them: give it without"):
        with pytest.raises(UsageError) as raised:
            locate(address)
        assert "99aa" not in str(raised.value)
        assert "pa55" not in str(raised.value)


@pytest.mark.parametrize("traceback", ["0", "1"])
def test_the_command_line_shows_no_password(traceback: str) -> None:
    variables = environment(DEAPCACHE_TRACEBACK=traceback)
    command = deapcache("cache", "ls", "--home", HOME)
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pa55" not in done.stdout + done.stderr
    assert ("Traceback" in done.stderr) == (traceback == "1")


def test_keys_of_a_store_are_in_no_message(s3: S3Bucket, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stores.RETRIES, "max_retries", 1)
    with proxied(s3.server.place) as proxy, tally.fault("keys in the environment", "nothing of them"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        home = locate(s3.url)
        assert home.publish("key", b"1")
        for status in ("403", "500"):
            proxy.plan = always(status)
            for attempt in (partial(home.read, "key"), partial(home.publish, "other", b"2")):
                with pytest.raises(LocationError, match=s3.url) as raised:
                    attempt()
                assert not any(secret in str(raised.value) for secret in KEYS.values())
