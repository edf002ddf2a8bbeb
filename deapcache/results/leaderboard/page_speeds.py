"""Speeds in the page: one column, and a choice of the device that it is of where there are several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from deapcache.results.leaderboard.facts import BackboneFacts
from deapcache.results.leaderboard.speeds import COMMAND, ratio, relative


def speed_cell(backbone: BackboneFacts, devices: Sequence[str]) -> str:
    """The speed on the first device; those on all of them as data, from which the page's script shows another."""
    known = [relative(backbone, device) for device in devices]
    value = known[0] if known else None
    every = f' data-speeds="{escape(json.dumps(known))}"' if len(devices) > 1 else ""
    shown = "" if value is None else repr(value)
    return f'<td class="n extra speed" data-v="{shown}"{every}>{ratio(value)}</td>'


def device_choice(devices: Sequence[str]) -> str:
    """A choice for the form; nothing where there is but one device."""
    if len(devices) < 2:
        return ""
    options = "".join(f'<option value="{place}">{escape(name)}</option>' for place, name in enumerate(devices))
    return f'<label class="choice">Speed on <select name="device">{options}</select></label>\n'


def speed_legend(devices: Sequence[str]) -> str:
    """What the column is, on which device, and what to type where it is empty."""
    if not devices:
        return f"<li>speed: not measured yet; <code>{COMMAND}</code> measures it on the device at hand</li>"
    return (
        "<li>speed: of the whole backbone in inference, ViT-B/16 at 224 = 1, higher is faster; on "
        f"<span data-device>{escape(devices[0])}</span>; – not measured there (<code>{COMMAND}</code>)</li>"
    )
