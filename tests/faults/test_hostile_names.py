"""Names from a cache never become paths, markup, control characters or HTML."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from pathlib import Path

import pytest
from deapcache_caches import feature_recipe, image_ids
from deapcache_faults import environment
from deapcache_servers import in_a_thread
from deapcache_testing import deapcache

from deapcache.cache import FeatureCache, create_cache, feature_arrays, features_path, open_cache
from deapcache.cache.image_ids import image_id_files
from deapcache.cache.names import escape_name, unescape_name
from deapcache.cache.serve import HomeServer
from deapcache.errors import DeapcacheError
from deapcache.locations import LocalLocation


def test_image_ids_are_never_paths(tmp_path: Path) -> None:
    ids = ["../../../escape", "/etc/passwd", "<script>alert(1)</script>", "[/red]", "\x1b[2J", *image_ids(5)]
    home = LocalLocation(tmp_path / "home")
    recipe = feature_recipe()
    cache = create_cache(home, "x.zarr", recipe=recipe, arrays=feature_arrays("float16", (3, 4), 8), image_ids=ids)
    assert isinstance(cache, FeatureCache)
    assert open_cache(cache.location).image_ids == tuple(ids)
    with pytest.raises(DeapcacheError) as raised:
        cache.read(range(5))
    assert "\x1b" not in str(raised.value)
    assert {path.name for path in tmp_path.iterdir()} == {"home"}
    assert list(dict(image_id_files(ids)))  # written as bytes of one array, whatever they say


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "..", ".hidden", "<b>", "[red]", "\x1b[2J", "a\nb", "%2e%2e", "é", "~41."]
)
def test_names_are_one_plain_part_of_a_path(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_@+=~-][A-Za-z0-9_.@+=~-]*", escape_name(name))
    assert unescape_name(escape_name(name)).isprintable()
    if name.isprintable() and "~" not in name:
        assert unescape_name(escape_name(name)) == name


def test_codes_that_are_no_character_stay_as_they_are() -> None:
    for part in ("~ffffffffffff.", "~110000.", "~1b.", "~a.", "~d800."):
        assert unescape_name(part) == part


def test_names_with_markup_and_control_characters_are_shown_as_text(tmp_path: Path) -> None:
    home = LocalLocation(tmp_path / "home")
    name = "[/red][link=http://evil]<b>:smile:"
    recipe = feature_recipe(backbone=name)
    path = f"features/~5b.~2f.x~1b.~5d./tr~7f.ain/{escape_name(name)}-{recipe.digest[:12]}.zarr"
    create_cache(home, path, recipe=recipe, arrays=feature_arrays("float16", (3, 4), 8), image_ids=["a"])
    for verb in (["ls"], ["info", recipe.digest[:12]]):
        command = deapcache("cache", *verb, "--home", home)
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
        assert name in done.stdout
        assert "\x1b" not in done.stdout


def test_names_with_html_are_text_on_the_page_of_a_served_home(tmp_path: Path) -> None:
    home = LocalLocation(tmp_path / "home")
    name = "<script>alert(1)</script>"
    recipe = feature_recipe(backbone=name, view="<img src=x onerror=alert(2)>")
    path = features_path('"><b>', "<i>", name, recipe.digest)
    create_cache(home, path, recipe=recipe, arrays=feature_arrays("float16", (3, 4), 8), image_ids=["<u>"])
    server = HomeServer(home, "127.0.0.1", 0)
    with in_a_thread(server), urllib.request.urlopen(server.url, timeout=60) as answer:
        page = answer.read().decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "onerror=alert(2)&gt;" in page
    assert not re.search(r"<(script|img|b|i|u)\b", page)
