"""What a backbone costs, in the page: a column of speeds of one device, its choice, and one line for phones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from deapcache.results.leaderboard.columns import millions
from deapcache.results.leaderboard.facts import BackboneFacts
from deapcache.results.leaderboard.speeds import COMMAND, ratio, relative


def speed_cell(backbone: BackboneFacts, devices: Sequence[str]) -> str:
    """The speed on the first device; those on all of them as data, from which the page's script shows another."""
    known = [relative(backbone, device) for device in devices]
    value = known[0] if known else None
    shown = "" if value is None else repr(value)
    return f'<td class="n extra speed" data-v="{shown}"{_every(known)}>{ratio(value)}</td>'


def _every(known: Sequence[float | None]) -> str:
    return f' data-speeds="{escape(json.dumps(known))}"' if len(known) > 1 else ""


def cost_line(backbone: BackboneFacts, readout: str, devices: Sequence[str]) -> str:
    """Readout, category, size and speed under a name: what a phone has no columns for; elsewhere it is not shown."""
    told = [escape(readout), escape(backbone.category)]
    if backbone.parameters is not None:
        told.append(f"{millions(backbone.parameters, 1)}\u00a0M")
    known = [relative(backbone, device) for device in devices]
    if any(value is not None for value in known):
        told.append(f'<span class="unit"><span{_every(known)}>{ratio(known[0])}</span> × ViT-B/16</span>')
    return f'<span class="cost">{" · ".join(told)}</span>'


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
