"""Weight files: where they are, fetching them, and whether one is whole, all without torch.

They lie in the caches of the libraries, in Python packages, beside plugins, or are downloaded. Whether a file is whole
is told from its structure: no tensor is read, and nothing that a pickle names is imported or run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import socket
import zipfile
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from deapcache.backbones.registry import BackboneEntry, WeightsSource, describe
from deapcache.errors import MissingWeightsError, first_line

TIMEOUT_SECONDS = 8.0
"""How long a server may stay silent before the download counts as impossible."""

INDEX = ".index.json"
"""Ending of a file that says which tensors are in which of several files."""

_TORCH = 0x1950A86A20F9469CFC6C
"""The first value in a file of torch's format before 1.6."""

_MAX_HEADER = 100_000_000
"""Bytes of a safetensors header; the library refuses more."""

_ITEM_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8,
}  # fmt: skip
"""Of torch's storage classes."""


def weights_status(name: str) -> str:
    """Whether the weights are at hand, found out without network.

    ``here``, ``with the plugin`` (its own function brings them), ``download`` (they will be fetched when the backbone
    is built), ``gated: …`` (and what to accept where; a token is not set), ``untrained``, ``damaged: …`` (and what to
    do), ``package missing: pip install …``, ``file missing: …``, or ``none published: give --weights FILE``.
    """
    entry = describe(name)
    if entry.untrained:
        return "untrained"
    if entry.own_weights and entry.is_plugin:
        return "with the plugin"
    if entry.source == WeightsSource():
        return "none published: give --weights FILE"
    if found := find(entry.source):
        # of an index in the hub's cache the library fetches what is not there
        is_whole = (entry.source.repo and found.name.endswith(INDEX)) or not find_damage(found)
        return "here" if is_whole else f"damaged: {remedy(entry, found)}"
    if entry.source.path:
        return f"file missing: {entry.source.path / entry.source.files[0] if entry.source.files else entry.source.path}"
    if entry.source.module:
        return f"package missing: pip install {entry.source.distribution}"
    if entry.gated:
        from huggingface_hub import get_token

        return "download" if get_token() else f"gated: {accept_terms(entry.source.repo)}"
    return "download"


def accept_terms(repo: str) -> str:
    """What to do about a gated repository of the Hugging Face hub."""
    return f"accept its terms at https://huggingface.co/{repo}, make a token with read access there, set HF_TOKEN to it"


def find(source: WeightsSource) -> Path | None:
    """The weight file where it is on this machine already; no network."""
    if source.path:
        paths = [source.path / file for file in source.files] or [source.path]
        return next((path for path in paths if path.is_file()), None)
    if source.module:
        spec = importlib.util.find_spec(source.module)
        folders = spec.submodule_search_locations or [] if spec else []
        return next((path for folder in folders for path in sorted(Path(folder).rglob("*.pth"))), None)
    if source.repo:
        from huggingface_hub import try_to_load_from_cache

        cached_files = (try_to_load_from_cache(source.repo, file, revision=source.revision) for file in source.files)
        return next((Path(path) for path in cached_files if isinstance(path, str)), None)
    cached = _torch_hub_path(source.url)
    return cached if cached.is_file() else None


def fetch(entry: BackboneEntry) -> Path:
    """The weight file of ``entry``, downloaded into the cache of its library where need be.

    Raises :class:`MissingWeightsError`, within seconds where there is no network.
    """
    from huggingface_hub import constants

    source = entry.source
    if source == WeightsSource():
        raise MissingWeightsError(
            f"backbone {entry.name!r} ({entry.architecture}) names no published weights: "
            f"give a file with --weights FILE, or take the name {entry.name + '@untrained'!r}"
        )
    if found := find(source):
        return found
    if source.path:
        raise _missing(entry, "there is no such file")
    if source.module:
        raise _missing(entry, f"it is not installed: pip install {source.distribution}")
    if constants.HF_HUB_OFFLINE:
        raise _missing(entry, "HF_HUB_OFFLINE forbids to download them")
    folder = Path(constants.HF_HUB_CACHE) if source.repo else _torch_hub_path(source.url)
    if str(folder).startswith("~"):
        variable = "HF_HOME" if source.repo else "TORCH_HOME"
        raise _missing(entry, f"there is no home folder to keep them in: set HOME or {variable}")
    return _download_from_hub(entry) if source.repo else _download_from_url(entry)


def remedy(entry: BackboneEntry, path: Path) -> str:
    """What to do about the file of ``entry`` that was found at ``path`` and cannot be used."""
    if entry.source.module:
        return f"install it again with pip install --force-reinstall {entry.source.distribution}"
    if entry.source.path:
        return f"put {path} there again"
    # in the hub's cache the path is a link, and the library would link the same content again
    return f"delete {os.path.realpath(path)}, and it is fetched again"


def _missing(entry: BackboneEntry, reason: str) -> MissingWeightsError:
    size = f"about {entry.weights_size_bytes / 1e6:,.0f} MB"
    return MissingWeightsError(
        f"the weights of backbone {entry.name!r} are not on this machine ({entry.source}, {size}): {reason}. "
        f"Get that file on a machine with network and give it with --weights FILE"
    )


def _download_from_hub(entry: BackboneEntry) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

    for file in entry.source.files:
        try:
            # one request without retries: hf_hub_download alone would try for half a minute without network
            get_hf_file_metadata(hf_hub_url(entry.source.repo, file), timeout=TIMEOUT_SECONDS)
            return Path(hf_hub_download(entry.source.repo, file, etag_timeout=TIMEOUT_SECONDS))
        except EntryNotFoundError:
            continue
        except GatedRepoError:
            raise _missing(entry, f"they are gated: {accept_terms(entry.source.repo)}") from None
        except Exception as error:  # the hub's HTTP library, and so its errors, differs by version
            raise _missing(entry, f"the download failed ({first_line(error)})") from None
    raise _missing(entry, "the repository has no such file")


def _download_from_url(entry: BackboneEntry) -> Path:
    import torch

    target = _torch_hub_path(entry.source.url)
    target.parent.mkdir(parents=True, exist_ok=True)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)  # torch sets none
    try:
        torch.hub.download_url_to_file(entry.source.url, str(target))
    except (OSError, RuntimeError) as error:
        raise _missing(entry, f"the download failed ({first_line(error)})") from None
    finally:
        socket.setdefaulttimeout(before)
    if damage := find_damage(target):  # servers that close early, or answer with a page
        target.unlink()
        raise _missing(entry, f"the download failed (what came {damage})")
    return target


def _torch_hub_path(url: str) -> Path:
    """Where torch.hub keeps the file of that URL; with ``~`` left where no home folder is known."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    home = Path(os.path.expanduser(os.environ.get("TORCH_HOME") or cache))  # noqa: PTH111 - ~ may stay, as there
    return home / "hub" / "checkpoints" / Path(urlsplit(url).path).name


def is_safetensors(path: Path) -> bool:
    """Whether the content is safetensors, whatever the ending of the name. Raises :class:`OSError`."""
    with path.open("rb") as file:
        return _is_safetensors(file.read(9))


def find_damage(path: Path) -> str:
    """What is wrong with a checkpoint, as the rest of a sentence about it; empty where it is whole.

    Found are files that were cut short, are empty, or hold something else: an error page, a Git LFS pointer, a zip
    archive without a checkpoint. Bytes of tensors are not looked at. Of an index, its files are.
    """
    try:
        if path.name.endswith(INDEX):
            return _index_damage(path)
        with path.open("rb") as file:
            return _damage(file, path.stat().st_size)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def weight_map(index: Path) -> dict[str, str]:
    """Key → name of the file beside ``index`` that holds it, as transformers writes it; raises :class:`ValueError`."""
    try:
        found = json.loads(index.read_bytes())["weight_map"]
        return {str(key): Path(file).name for key, file in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{index} is no index") from None


def _index_damage(path: Path) -> str:
    try:
        files = sorted(set(weight_map(path).values()))
    except ValueError:
        files = []
    if not files or any(file.endswith(INDEX) for file in files):
        return "is no index of a checkpoint's files, with a weight_map"
    for file in files:
        if not (path.parent / file).is_file():
            return f"names {len(files)} files, of which {file} is not beside it"
        if damage := find_damage(path.parent / file):
            return f"names {file}, which {damage}"
    return ""


def _damage(file: BinaryIO, size: int) -> str:
    start = file.read(512)
    file.seek(0)
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file that it stands for"
    if _is_safetensors(start):
        return _safetensors_damage(file, size)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"<", b"{"):
        return "holds a web page or a message of a server in place of weights"
    if start.startswith(b"PK"):
        return _zip_damage(file)
    if start.startswith(b"\x80"):
        return _legacy_damage(file, size)
    return "is no checkpoint, neither of safetensors nor of torch"


def _is_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= _MAX_HEADER


def _cut_short(size: int, expected: int) -> str:
    return f"is cut short: it has {size:,} of {expected:,} bytes"


def _safetensors_damage(file: BinaryIO, size: int) -> str:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 + length:
        return _cut_short(size, 8 + length).replace(" of ", " of at least ")
    try:
        header = json.loads(file.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return "has a damaged safetensors header"
    if size > expected:
        return f"has {size - expected:,} bytes more than its safetensors header says"
    return _cut_short(size, expected) if size < expected else ""


def _zip_damage(file: BinaryIO) -> str:
    try:
        names = zipfile.ZipFile(file).namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "is cut short: the directory at its end is missing"
    is_checkpoint = any(name.rpartition("/")[2] == "data.pkl" for name in names)
    return "" if is_checkpoint else "is a zip archive without a checkpoint of torch"


def _legacy_damage(file: BinaryIO, size: int) -> str:
    """Of torch's format before 1.6: five pickles, then each storage as its length, 8 bytes, and its numbers."""
    sizes: dict[Any, int] = {}
    try:
        if _StorageSizes(file, sizes).load() != _TORCH:
            return "is a pickle that torch did not write"
        for _ in range(3):  # protocol, facts about the system, and the object
            _StorageSizes(file, sizes).load()
        keys = _StorageSizes(file, sizes).load()
        expected = file.tell() + sum(8 + sizes[key] for key in keys)
    except EOFError:
        return f"is cut short, after {size:,} bytes"
    except Exception as error:  # whatever a pickle may hold; torch says what it makes of it
        return f"is cut short, after {size:,} bytes" if "truncated" in str(error) else ""
    return _cut_short(size, expected) if size < expected else ""


class _Placeholder:
    """Stands for whatever a pickle names, so that nothing of it is imported or run."""

    def __new__(cls, *_: object, **__: object) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass

    def append(self, _: object) -> None:
        """As a list does."""

    def extend(self, _: object) -> None:
        """As a list does."""


class _StorageSizes(pickle.Unpickler):
    """Reads a pickle for the storages that it mentions: key → bytes."""

    def __init__(self, file: BinaryIO, sizes: dict[Any, int]) -> None:
        super().__init__(file)
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Placeholder,), {})

    def persistent_load(self, identifier: Any) -> Any:
        kind, storage, key, _, count, *_ = identifier
        if kind == "storage":
            self._sizes[key] = count * _ITEM_BYTES[storage.__name__]
        return None
