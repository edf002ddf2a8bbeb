"""Dataset repositories of the Hugging Face Hub: ``hf://datasets/OWNER/REPO[@REVISION][/FOLDER]``.

Files are read by byte ranges, as from a web server, and listed by the Hub itself. A repository is seen as it was at one
commit, so that a reader never mixes two states of it. What is written becomes commits of many files each, and only
within :meth:`HubLocation.batch`: a commit for every shard would be refused by the Hub after some dozens.

``HF_ENDPOINT`` names another Hub, ``HF_TOKEN`` (or ``hf auth login``) says who asks.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote, urlsplit

from deapcache.errors import DeapcacheError, LocationError, NotAFileError, ReadOnlyError, UsageError
from deapcache.locations.addresses import redacted
from deapcache.locations.base import DEFAULT_OPTIONS, Location, LocationOptions, relative_key
from deapcache.locations.stores import RETRIES, silence_seconds
from deapcache.locations.web import WebLocation
from deapcache.untrusted import is_hidden

HUB_SCHEME = "hf"

_ADDRESS = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@(refs/[\w-]+/[^/@]+|[^/@]+))?(?:/(.+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")

_COMMIT_FILES = 100
"""Files of one commit: the Hub advises 50 to 100."""
_KEPT_BYTES = 1 << 20
"""Of a file that is kept in memory until its commit; a larger one is read again from the Hub."""
_ADDRESS_SECONDS = 600.0
"""For which the signed address of a file is used again; the Hub gives them for an hour."""
_BURST = 1.0
"""Seconds within which the repository is not looked at again even where something seems to be missing."""
_THREADS = 16

_Facts = tuple[int, str]
"""Bytes and blob id of a file."""


class HubLocation(WebLocation):
    """A folder of a dataset repository of the Hub."""

    def __init__(self, url: str, *, options: LocationOptions = DEFAULT_OPTIONS) -> None:
        if not (found := _ADDRESS.fullmatch(url.rstrip("/"))):
            raise UsageError(
                f"{redacted(url)!r} is no dataset of the Hugging Face Hub: give hf://datasets/OWNER/REPO, with "
                "@REVISION and /FOLDER behind it where it is neither main nor the whole"
            )
        super().__init__(url, options=options)
        self._name, self._revision, self._folder = found[1], unquote(found[2] or "main"), found[3] or ""

    @property
    def _repository(self) -> _Repository:
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return _open(endpoint.rstrip("/"), self._name, self._revision)

    def _path(self, key: str) -> str:
        return "/".join(part for part in (self._folder, relative_key(key)) if part not in ("", "."))

    @property
    def origin(self) -> str:
        return f"{self._repository.endpoint} {self.url}"

    @property
    def can_list(self) -> bool:
        return True

    def refresh(self) -> bool:
        return self._repository.refresh()

    def keys(self, prefix: str = "", *, hidden: bool = False) -> list[str]:
        return sorted(key for key in self._listed(prefix) if hidden or not is_hidden(key))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        return {key: size for key, size in self._listed(prefix).items() if not is_hidden(key)}

    def _listed(self, prefix: str) -> dict[str, int]:
        skipped = len(self._folder) + 1 if self._folder else 0
        with _hub_errors(self, prefix):
            found = self._repository.tree(self._path(prefix) if prefix else self._folder)
            return {path[skipped:]: size for path, (size, _) in found.items()}

    def find(self, pattern: str) -> list[str]:
        return Location.find(self, pattern)

    def size(self, key: str) -> int:
        return self._facts(key)[0]

    def sizes_of(self, keys: Iterable[str]) -> dict[str, int]:
        found = self._listed("")
        return {key: found[key] for key in keys if key in found}

    def etag(self, key: str) -> str | None:
        return self._facts(key)[1]

    def exists(self, key: str) -> bool:
        try:
            self._facts(key)
        except FileNotFoundError:
            return False
        return True

    def _facts(self, key: str) -> _Facts:
        with _hub_errors(self, key):
            return self._repository.facts(self._path(key))

    def read(self, key: str, *, most: int | None = None) -> bytes:
        if most is not None and (size := self.size(key)) > most:
            raise NotAFileError(f"{self}/{key} has {size:,} bytes: at most {most:,} are read of such a file")
        with _hub_errors(self, key):
            return self._repository.read(self._path(key))

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        repository, path = self._repository, self._path(key)

        def part(wanted: tuple[int, int]) -> memoryview:
            start, length = wanted
            return memoryview(repository.read(path, start, start + length) if length else b"")

        with _hub_errors(self, key), ThreadPoolExecutor(min(_THREADS, len(ranges) or 1)) as pool:
            return list(pool.map(part, ranges))

    def read_tail(self, key: str, length: int) -> memoryview:
        with _hub_errors(self, key):
            return memoryview(self._repository.read(self._path(key), -length))

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        with self._repository.batch():
            try:
                yield
            finally:
                with _hub_errors(self, writing=True):
                    self._repository.commit()

    def require_writable(self) -> None:
        """Make the repository where there is none, private; raises :class:`ReadOnlyError`."""
        self._require_batch()
        with _hub_errors(self, writing=True):
            self._repository.create()

    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        self._require_batch()
        if not replace and self.exists(key):
            return False
        with _hub_errors(self, key, writing=True):
            self._repository.add(self._path(key), data)
        return True

    def delete(self, key: str) -> None:
        self._require_batch()
        raise self._read_only()

    def _require_batch(self) -> None:
        self._require_not_read_only()
        if _COMMIT.fullmatch(self._revision):
            raise ReadOnlyError(f"{self} is one commit, which never changes: leave @{self._revision} out to write")
        if not self._repository.in_batch:
            raise self._read_only()

    def _read_only(self) -> ReadOnlyError:
        return ReadOnlyError(
            f"{self} is read only but for `deapcache cache push` and `deapcache submit`: write to a path, s3:// or "
            "gs://, and push what is done"
        )


@functools.cache
def _open(endpoint: str, name: str, revision: str) -> _Repository:
    return _Repository(endpoint, name, revision)


class _Repository:
    """A dataset repository as it was at one commit, with what this process has added to it since."""

    def __init__(self, endpoint: str, name: str, revision: str) -> None:
        from huggingface_hub import HfApi

        self.endpoint = endpoint
        self._name, self._revision = name, revision
        self._api = HfApi(endpoint=endpoint, library_name="deapcache")
        self._lock = threading.RLock()
        self._looked = 0.0
        self._commit = ""
        self._trees: dict[str, dict[str, _Facts]] = {}
        self._addresses: dict[str, tuple[float, str]] = {}
        self._added: dict[str, tuple[Any, bytes | None, _Facts]] = {}
        self._batches = 0

    # --- reading

    def _at(self) -> str:
        """The commit that is read."""
        with self._lock:
            if not self._commit:
                found = self._api.dataset_info(self._name, revision=self._revision, timeout=silence_seconds())
                self._commit, self._looked = str(found.sha), time.monotonic()
            return self._commit

    def refresh(self) -> bool:
        """Look again which commit is the last; whether one was remembered."""
        with self._lock:
            if not self._commit or time.monotonic() - self._looked < _BURST:
                return False
            self._commit = ""
            self._trees.clear()
            self._addresses.clear()
            return True

    def tree(self, folder: str) -> dict[str, _Facts]:
        """Every file below ``folder``."""
        from huggingface_hub import RepoFile
        from huggingface_hub.errors import EntryNotFoundError

        with self._lock:
            known = self._known_tree(folder)
            if known is None:
                known = {}
                with contextlib.suppress(EntryNotFoundError):  # there is no such folder
                    for each in self._api.list_repo_tree(
                        self._name, folder or None, recursive=True, revision=self._at(), repo_type="dataset"
                    ):
                        if isinstance(each, RepoFile):
                            known[each.path] = each.size, each.blob_id
                self._trees[folder] = known
            below = f"{folder}/" if folder else ""
            added = {path: facts for path, (_, _, facts) in self._added.items()}
            return {path: facts for path, facts in {**known, **added}.items() if path.startswith(below)}

    def _known_tree(self, path: str) -> dict[str, _Facts] | None:
        """The listed tree in which ``path`` would be."""
        above = [path, *("/".join(path.split("/")[:depth]) for depth in range(path.count("/"), 0, -1)), ""]
        return next((self._trees[folder] for folder in above if folder in self._trees), None)

    def facts(self, path: str) -> _Facts:
        """Bytes and blob id of a file; raises ``FileNotFoundError``."""
        from huggingface_hub import RepoFile

        with self._lock:
            if path in self._added:
                return self._added[path][2]
            known = self._known_tree(path)
        if known is None:
            found = self._api.get_paths_info(self._name, [path], revision=self._at(), repo_type="dataset")
            known = {each.path: (each.size, each.blob_id) for each in found if isinstance(each, RepoFile)}
        if path not in known:
            raise FileNotFoundError(errno.ENOENT, "no such key", path)
        return known[path]

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes ``start`` to ``stop`` of a file, less where it ends; the last ones where ``start`` is below 0."""
        with self._lock:
            if path in self._added:
                if (data := self._added[path][1]) is not None:
                    return data[start:stop]
                self.commit()  # to read again what is too large to be kept
        wanted = None if (start, stop) == (0, None) else f"bytes={start}-{'' if stop is None else stop - 1}"
        if start < 0:
            wanted = f"bytes={start}"
        answer = self._get(path, wanted)
        data = bytes(answer.content)
        return data[start:stop] if wanted and answer.status_code == 200 else data

    def _get(self, path: str, wanted: str | None) -> Any:
        """The answer to a request for ``wanted``, from the signed address where the Hub keeps the file elsewhere."""
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

        waits = {"base_wait_time": RETRIES["initial_seconds"], "max_wait_time": RETRIES["most_seconds"]}
        for attempt in range(2):
            address, is_old = self._address_of(path)
            headers = {"Accept-Encoding": "identity", **({"Range": wanted} if wanted else {})}
            if urlsplit(address)[:2] == urlsplit(self.endpoint)[:2]:  # nobody else is told who asks
                headers |= build_hf_headers(library_name="deapcache")
            answer = http_backoff(
                "GET", address, headers=headers, timeout=silence_seconds(), max_retries=RETRIES["max_retries"], **waits
            )
            try:
                hf_raise_for_status(answer)
                return answer
            except HfHubHTTPError:
                with self._lock:
                    self._addresses.pop(path, None)
                if attempt or not is_old:  # else the signed address has run out
                    raise
        raise AssertionError

    def _address_of(self, path: str) -> tuple[str, bool]:
        """Where a file's bytes are, and whether that was asked a while ago."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        known = self._addresses.get(path)
        if known and time.monotonic() - known[0] < _ADDRESS_SECONDS:
            return known[1], True
        url = hf_hub_url(self._name, path, repo_type="dataset", revision=self._at(), endpoint=self.endpoint)
        found = get_hf_file_metadata(
            url, timeout=silence_seconds(), library_name="deapcache", endpoint=self.endpoint, retry_on_errors=True
        )
        self._addresses[path] = time.monotonic(), found.location
        return found.location, False

    # --- writing

    @property
    def in_batch(self) -> bool:
        return self._batches > 0

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        with self._lock:
            self._batches += 1
        try:
            yield
        finally:
            with self._lock:
                self._batches -= 1

    def create(self) -> None:
        """Make the repository, private, where there is none."""
        self._api.create_repo(self._name, repo_type="dataset", private=True, exist_ok=True)

    def add(self, path: str, data: bytes) -> None:
        """Upload a file; it is part of the next commit."""
        from huggingface_hub import CommitOperationAdd

        addition = CommitOperationAdd(path, data)
        self._api.preupload_lfs_files(
            self._name, [addition], repo_type="dataset", revision=self._revision, free_memory=True
        )
        with self._lock:
            kept = data if len(data) <= _KEPT_BYTES else None
            self._added[path] = addition, kept, (len(data), addition.upload_info.sha256.hex())
            if len(self._added) >= _COMMIT_FILES:
                self.commit()

    def commit(self) -> None:
        """Make a commit of what was added."""
        with self._lock:
            added, self._added = self._added, {}
            if not added:
                return
            done = self._api.create_commit(
                self._name,
                [addition for addition, _, _ in added.values()],
                commit_message=f"deapcache: {len(added)} files",
                repo_type="dataset",
                revision=self._revision,
            )
            self._commit, self._looked = str(done.oid), time.monotonic()
            self._trees.clear()
            self._addresses.clear()


# --- what the Hub refuses, in one line --------------------------------------------------------------------------------


@contextlib.contextmanager
def _hub_errors(place: HubLocation, key: str = "", *, writing: bool = False) -> Iterator[None]:
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    where = f"{place}/{key}" if key else str(place)
    verb = "write" if writing else "read"
    try:
        yield
    except DeapcacheError:
        raise
    except (FileNotFoundError, EntryNotFoundError) as error:
        raise FileNotFoundError(errno.ENOENT, "no such key", redacted(where)) from error
    except RevisionNotFoundError as error:
        raise LocationError(
            f"cannot {verb} {where}: the repository has no such revision; check the @REVISION"
        ) from error
    except Exception as error:  # of the library, of the one that it sends requests with, and of threads of theirs
        status = _status_of(error)
        if status == 416:
            raise ValueError("the file ends early") from error
        kind = ReadOnlyError if writing and status in (401, 403) else LocationError
        raise kind(f"cannot {verb} {where}: {_reason(error, status, writing=writing)}") from error


def _status_of(error: BaseException | None) -> int:
    """The HTTP status of an error or of what it comes from; 0 where no answer came."""
    while error is not None:
        if (answer := getattr(error, "response", None)) is not None:
            return int(answer.status_code)
        error = error.__cause__
    return 0


def _reason(error: Exception, status: int, *, writing: bool) -> str:
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it"
    who = "the token in use (HF_TOKEN, or that of `hf auth login`)"
    token = f"{who} does not open it" if get_token() else "no token is sent: set HF_TOKEN, or run `hf auth login`"
    if isinstance(error, GatedRepoError):
        return f"it is gated ({status}): accept its conditions on its page; {token}"
    if status in (401, 404):
        return f"there is no such dataset repository, or it is private ({status}): check the name; {token}"
    if status == 403:
        return f"the Hub does not allow it (403): {who} lacks the right to {'write' if writing else 'read'} there"
    if status == 429:
        return (
            "too many requests (429): wait some minutes; with HF_TOKEN the Hub allows more, and with --local-tier, or "
            "after `deapcache cache pull`, each shard is asked for once"
        )
    first = redacted(str(error).strip().partition("\n")[0]) or type(error).__name__
    return f"HTTP response code: {status}; {first}" if status else f"the Hub cannot be reached: {first}"
