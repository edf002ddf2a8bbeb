"""Pictures in the page: small, drawn anew, and never more than the page holds."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from deapcache.results.leaderboard.page import Pictures


def save_png(home, run, hidden=b""):
    noise = np.random.default_rng(0).integers(0, 256, (48, 35, 3), dtype=np.uint8)
    packed = io.BytesIO()
    Image.fromarray(noise).resize((1056, 1449)).save(packed, "PNG")
    home.publish(f"results/{run}.png", packed.getvalue() + hidden)


def test_a_picture_is_shrunk_and_its_bytes_are_not_handed_on(home):
    save_png(home, "a", hidden=b"<script>alert(1)</script>")
    address, problem = Pictures().embed(home, "a")
    data = base64.b64decode(address.removeprefix("data:image/webp;base64,"))
    shown = Image.open(io.BytesIO(data))
    assert (problem, shown.format, shown.width) == ("", "WEBP", 1000)
    assert len(data) < 250_000
    assert b"<script>" not in data


def test_what_is_no_picture_or_too_large_is_told_and_a_run_may_have_none(home):
    home.publish("results/text.png", b"<svg onload=alert(1)>")
    home.publish("results/cut.png", b"\x89PNG\r\n\x1a\n" + bytes(40))
    packed = io.BytesIO()
    Image.new("1", (9000, 6000)).save(packed, "PNG")  # a few kB that become 54 million pixels
    home.publish("results/large.png", packed.getvalue())
    for run, words in (("text", "cannot be shown"), ("cut", "cannot be shown"), ("large", "9000 × 6000")):
        address, problem = Pictures().embed(home, run)
        assert address == ""
        assert words in problem
    assert Pictures().embed(home, "absent") == ("", "")


def test_a_full_page_says_what_it_leaves_out(home):
    for run in ("a", "b"):
        save_png(home, run)
    first = len(base64.b64decode(Pictures().embed(home, "a")[0].partition(",")[2]))
    pictures = Pictures(budget=first + 1)
    assert pictures.embed(home, "a")[1] == ""
    assert "left out" in pictures.embed(home, "b")[1]
