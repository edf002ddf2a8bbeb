"""What tensorstore is told about a bucket: address, region, credentials.

``s3://PROFILE@bucket/prefix`` takes credentials, region and endpoint of that profile of the AWS configuration, so that
one command can use homes of different servers; ``s3://anonymous@bucket/prefix`` signs nothing, for public buckets.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deapcache.errors import UsageError

RETRIES = {"max_retries": 5, "initial_delay": "500ms", "max_delay": "4s"}
"""A hiccup is waited out for some ten seconds; tensorstore's own 32 retries would hide a dead server for minutes."""

ANONYMOUS = "anonymous"
"""In the place of a profile: requests are not signed."""

_CONFIG, _CREDENTIALS = "~/.aws/config", "~/.aws/credentials"


def s3_spec(url: str) -> dict[str, Any]:
    """tensorstore's specification of ``s3://[PROFILE@]bucket/prefix``.

    Raises :class:`UsageError` for an address that names no bucket, has a secret in it, or an unknown profile.
    """
    parts = urlsplit(url)
    who, at, bucket = parts.netloc.rpartition("@")
    _check_address(parts.scheme, bucket, has_secret=":" in who, has_query=bool(parts.query or parts.fragment))
    profile = who if at else os.environ.get("AWS_PROFILE", "")
    settings = {} if who == ANONYMOUS else _profile_settings(profile, required=bool(at))
    spec: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": parts.path.lstrip("/")}
    spec |= {"s3_request_retries": RETRIES, "aws_credentials": _credentials(who, profile)}
    # A profile named in the address goes before the environment, one of $AWS_PROFILE after it, as with Amazon's tools.
    environment = _environment()
    chosen = {**environment, **settings} if at else {**settings, **environment}
    if endpoint := chosen.get("endpoint_url"):
        spec["endpoint"] = endpoint.rstrip("/")
    if region := chosen.get("region"):
        spec["aws_region"] = region
    return spec


def gcs_spec(url: str) -> dict[str, Any]:
    """tensorstore's specification of ``gs://bucket/prefix``; credentials are Google's application default ones."""
    parts = urlsplit(url)
    _check_address(parts.scheme, parts.netloc, has_secret="@" in parts.netloc, has_query=bool(parts.query))
    return {"driver": "gcs", "bucket": parts.netloc, "path": parts.path.lstrip("/"), "gcs_request_retries": RETRIES}


def _check_address(scheme: str, bucket: str, *, has_secret: bool, has_query: bool) -> None:
    # None of these messages repeats the address: it may hold a secret.
    if has_secret:
        raise UsageError(
            f"a {scheme}:// address must not hold keys: give them in the environment or in a profile "
            "(s3://PROFILE@bucket/prefix)"
        )
    if not bucket:
        raise UsageError(f"a {scheme}:// address needs a bucket: {scheme}://bucket/prefix")
    if has_query:
        raise UsageError(
            f"a {scheme}:// address has nothing behind '?' or '#': public buckets are s3://{ANONYMOUS}@bucket/prefix; "
            "endpoint and region are AWS_ENDPOINT_URL and AWS_REGION, or those of a profile: s3://PROFILE@bucket/prefix"
        )


def _credentials(who: str, profile: str) -> dict[str, Any]:
    if who == ANONYMOUS:
        return {"type": "anonymous"}
    if who:
        return {"type": "profile", "profile": profile, **_files()}
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {"type": "environment"}
    return {"type": "default", **({"profile": profile} if profile else {})}


def _environment() -> dict[str, str]:
    found = {
        "endpoint_url": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
    }
    return {name: value for name, value in found.items() if value}


def _files() -> dict[str, str]:
    config = os.environ.get("AWS_CONFIG_FILE") or _CONFIG
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or _CREDENTIALS
    given = {"config_file": config, "credentials_file": credentials}
    # not expanded(): where no home folder is known these files are simply not there
    paths = {name: os.path.expanduser(path) for name, path in given.items()}  # noqa: PTH111
    return {name: path for name, path in paths.items() if Path(path).is_file()}


def _profile_settings(profile: str, *, required: bool) -> Mapping[str, str]:
    """Region and endpoint of a profile; those of ``default`` where none is named."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(_files().values())
    except configparser.Error as error:
        raise UsageError(f"{' or '.join(_files().values())} cannot be read: {type(error).__name__}") from None
    # A section of the configuration is called "profile NAME", one of the credentials NAME.
    sections = [name for name in (f"profile {profile}", profile or "default") if parser.has_section(name)]
    if required and not sections:
        raise UsageError(
            f"there is no AWS profile {profile!r} in {_CONFIG} or {_CREDENTIALS} (or where AWS_CONFIG_FILE and "
            f"AWS_SHARED_CREDENTIALS_FILE say); s3://{ANONYMOUS}@bucket/prefix is for public buckets"
        )
    wanted = ("endpoint_url", "region")
    return {name: parser[section][name] for section in sections for name in wanted if name in parser[section]}
