"""An S3 server in a process of its own (moto's), with boto3 as a second opinion on what lies in its buckets."""

from __future__ import annotations

import functools
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_COLOUR = re.compile(r"\x1b\[\d+m")
_REQUEST = re.compile(r'"([A-Z]+) (\S+) HTTP/1\.1" (\d+)')
_KEY, _SECRET = "a-key-for-tests", "a-secret-for-tests"


@functools.cache
def _client(url: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": _KEY, "aws_secret_access_key": _SECRET}
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)


@dataclass(frozen=True)
class S3Server:
    """A running server: its address and what it was asked."""

    url: str
    log: Path

    def client(self) -> Any:
        """boto3's client of this server."""
        return _client(self.url)

    def requests(self) -> list[tuple[str, str, int]]:
        """(method, path with query, status) of every request so far."""
        text = _COLOUR.sub("", self.log.read_text(errors="replace"))
        return [(method, path, int(status)) for method, path, status in _REQUEST.findall(text)]


@dataclass(frozen=True)
class S3Bucket:
    """A bucket of one test."""

    server: S3Server
    name: str

    @property
    def url(self) -> str:
        """A home in the bucket: ``s3://NAME/home``."""
        return f"s3://{self.name}/home"

    def keys(self) -> list[str]:
        """All keys of the bucket, as boto3 lists them."""
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", ()))

    def read(self, key: str) -> bytes:
        """The bytes of ``key``, as boto3 reads them."""
        return bytes(self.server.client().get_object(Bucket=self.name, Key=key)["Body"].read())

    def write(self, key: str, data: bytes, **options: Any) -> None:
        """Put an object behind deapcache's back."""
        self.server.client().put_object(Bucket=self.name, Key=key, Body=data, **options)

    def delete(self, key: str) -> None:
        """Delete an object behind deapcache's back."""
        self.server.client().delete_object(Bucket=self.name, Key=key)

    def deny(self, action: str) -> None:
        """Let nobody do ``action``, such as ``s3:PutObject``, in this bucket."""
        arn = f"arn:aws:s3:::{self.name}/*"
        statement = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": arn}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.server.client().put_bucket_policy(Bucket=self.name, Policy=policy)

    def upload(self, folder: Path) -> None:
        """Put every file of ``folder`` into the home."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.write(f"home/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def requests(self, part: str = "") -> list[tuple[str, str, int]]:
        """What was read of this bucket so far, of paths that contain ``part``."""
        mine = [found for found in self.server.requests() if found[1].startswith(f"/{self.name}")]
        return [found for found in mine if part in found[1] and found[0] in ("GET", "HEAD")]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for all tests of a session."""
    log = tmp_path_factory.mktemp("s3") / "requests.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as file:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
    server = S3Server(f"http://127.0.0.1:{port}", log)
    try:
        _await(server, process)
        yield server
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Bucket:
    """An empty bucket, and the environment that lets deapcache (and child processes) into it."""
    bucket = S3Bucket(s3_server, f"lab-{uuid.uuid4().hex[:12]}")
    s3_server.client().create_bucket(Bucket=bucket.name)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", _KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", _SECRET)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        (tmp_path / name).touch()
        monkeypatch.setenv(name, str(tmp_path / name))
    return bucket


def _await(server: S3Server, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{server.url}/moto-api/data.json", timeout=5):
                return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    raise RuntimeError(f"the S3 server does not answer: {server.log.read_text(errors='replace')[-2000:]}")
