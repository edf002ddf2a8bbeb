"""Paths and addresses as users give them, and as they may be shown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from deapcache.errors import UsageError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/*)(.*)", re.DOTALL)


def local_path(given: str | os.PathLike[str], *, what: str) -> Path:
    """``given`` as a path of this machine's file system; raises :class:`UsageError` for an address.

    ``what`` is the option or argument that an error names.
    """
    if found := _ADDRESS.match(text := os.fspath(given)):
        raise UsageError(
            f"{what} {_with_both_slashes(found)}: this is written to a path of this machine, not to an address"
        )
    return Path(text)


def require_both_slashes(text: str) -> None:
    """Raise :class:`UsageError` for an address that has lost a slash: as a path it would be a folder ``s3:``."""
    if (found := _ADDRESS.match(text)) and not found[2]:
        raise UsageError(
            f"location {redacted(text)!r} is an address that lacks a slash, as pathlib.Path makes it: "
            f"give {_with_both_slashes(found)!r} as text"
        )


def _with_both_slashes(address: re.Match[str]) -> str:
    return redacted(f"{address[1]}://{'/' if address[1] == 'file' else ''}{address[3]}")


Place = str | os.PathLike[str]

_HERE = ("", "localhost")
_ESCAPES = re.compile(r"%(?![0-9A-Fa-f]{2})|%2[Ff]|%00")
"""Of a ``file://`` address: what is no escape, and a separator or an end that would be no part of a name."""


def argument_or_variable(given: Place | None, variable: str, what: str) -> Place | None:
    """What the caller gives, else what the environment variable says, else None; an empty variable says nothing.

    Raises :class:`UsageError` where the caller gives an empty one.
    """
    if given is None:
        return os.environ.get(variable) or None
    if not os.fspath(given).strip():
        raise UsageError(f"the {what} is an empty string: leave it out to take ${variable} or the default")
    return given


def expanded(path: Place) -> Path:
    """The path with the folder that ``~`` or ``~user`` at its beginning stands for; raises :class:`UsageError`."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no HOME, and a user id without a name
        raise UsageError(
            f"{os.fspath(path)}: the home folder that ~ stands for is not known here: write the whole path, or set HOME"
        ) from None


def path_of_url(url: str) -> Path:
    """The path that a ``file://`` address means, its escapes such as ``%20`` read.

    Raises :class:`UsageError` for another host, a query or fragment, a relative path, and escapes that mean no name.
    """
    parts = urlsplit(url)
    if parts.netloc.lower() not in _HERE:
        raise UsageError(
            f"location {url!r} names the host {parts.netloc!r}: a file:// address is of this machine, "
            "file:///absolute/path; give another machine's folder where it is mounted here"
        )
    if not parts.path.startswith("/"):
        raise UsageError(f"location {url!r} has no absolute path: give file:///absolute/path, or the path alone")
    if "?" in url or "#" in url:
        raise UsageError(f"location {url!r} has a ? or #, which end the path of an address: write them as %3F and %23")
    if wrong := _ESCAPES.search(parts.path):
        raise UsageError(
            f"location {url!r} has {wrong[0]!r}, which is no character of a name: write a % of a name as %25, "
            "or give the path alone"
        )
    return Path(os.fsdecode(unquote_to_bytes(parts.path)))


HIDDEN = "***"

_USER = re.compile(r"(\w*)://([^/?#\s'\"]*)@")
_QUERY = re.compile(r"(://[^?\s'\"]*\?)([^#\s'\"]+)")
_VALUE = re.compile(r"(?<==)[^&]+")
_SIGNED = re.compile(
    r"<(AWSAccessKeyId|SignatureProvided|StringToSign(?:Bytes)?|CanonicalRequest(?:Bytes)?)>.*?(</\1>|$)", re.DOTALL
)
"""What a store repeats to explain that it did not accept a signature."""
_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SHORTEST = 16
"""Characters of a key; a shorter value is a stand-in, such as the word test."""


def redacted(text: str) -> str:
    """``text`` with what is secret in it replaced by ``***``.

    In addresses that is what precedes an ``@`` in front of the host, unless it is a profile's name, and every value of
    a query: names of parameters are no guide to which of them is a signature. Elsewhere it is what a store says of
    signatures, and the keys of the environment.

    >>> redacted("cannot reach https://ann:pw@host/lab?X-Amz-Signature=ab12&part=3: refused")
    'cannot reach https://***@host/lab?X-Amz-Signature=***&part=***: refused'
    """
    text = _USER.sub(_without_user, text)
    text = _QUERY.sub(lambda found: found[1] + _VALUE.sub(HIDDEN, found[2]), text)
    text = _SIGNED.sub(rf"<\1>{HIDDEN}\2", text)
    for variable in _VARIABLES:
        if len(secret := os.environ.get(variable, "")) >= _SHORTEST:
            text = text.replace(secret, HIDDEN)
    return text


def _without_user(found: re.Match[str]) -> str:
    scheme, user = found.groups()
    is_profile = scheme == "s3" and ":" not in user  # s3://PROFILE@bucket
    return found[0] if is_profile else f"{scheme}://{HIDDEN}@"
