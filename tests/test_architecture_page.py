"""``docs/architecture.md`` names files and code that exist."""

from __future__ import annotations

import re
from pathlib import Path

import deapcache

PACKAGE = Path(deapcache.__file__).parent
PAGE = PACKAGE.parent / "docs" / "architecture.md"
SOURCE = "\n".join(file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py"))
NAMES = [name for name in re.findall(r"`([^`\n]+)`", PAGE.read_text(encoding="utf-8")) if " " not in name]


def exists(name: str) -> bool:
    """Whether it is a file or folder of the package or the repository, or a word of the source."""
    if name.startswith("tests/") or name.startswith("deapcache/"):
        return (PACKAGE.parent / name).exists()
    if "/" in name:
        return (PACKAGE / name).exists()
    if name.endswith(".py"):
        return any(PACKAGE.rglob(name))
    return re.search(rf"\b{re.escape(name)}\b", SOURCE) is not None


def test_every_name_on_the_page_is_in_the_package() -> None:
    assert len(set(NAMES)) > 70
    assert [name for name in dict.fromkeys(NAMES) if not exists(name)] == []


def test_the_page_names_every_room() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    rooms |= {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert rooms <= set(NAMES)
