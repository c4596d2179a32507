"""Which parts of which page are made, and by what.

In a page they stand between ``<!-- made: NAME -->`` and ``<!-- /made -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from scoring_runtime.settings import markdown as settings
from tests.whole import test_differential

from . import commands, metrics, pictures, recording, scale, speed, troubles

DOCS = Path(__file__).parents[1] / "docs"
PARTS: dict[str, Callable[[], str]] = {
    "settings": settings.markdown,
    "commands": commands.markdown,
    "metrics": metrics.markdown,
    "differences": lambda: test_differential.table().strip(),
    "troubles": troubles.markdown,
    "scale": scale.markdown,
    "instances": scale.instances,
    "endurance": scale.endurance,
    "chaos": scale.chaos,
    **speed.PARTS,
}
_PART = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- /made -->)", re.DOTALL)


def remade(page: str) -> str:
    """A page's text with its made parts made anew."""
    return _PART.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}\n{found[3]}", page)


def names(page: str) -> list[str]:
    """The made parts of a page."""
    return [found[2] for found in _PART.finditer(page)]


def makers() -> dict[Path, Callable[[], str]]:
    """Every file that is made, whole or in part, and what makes the text that it should have."""
    found: dict[Path, Callable[[], str]] = {
        DOCS / "pictures" / f"{name}.svg": partial(_drawn, name) for name in pictures.PICTURES
    }
    found[recording.CAST.with_suffix(".svg")] = lambda: recording.svg(recording.read())
    for path in sorted(DOCS.glob("*.md")):
        if names(page := path.read_text(encoding="utf-8")):
            found[path] = partial(remade, page)
    return found


def _drawn(name: str) -> str:
    return pictures.PICTURES[name]().svg()
