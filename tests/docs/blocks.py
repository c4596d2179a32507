"""The pages, their fenced blocks, and what each block is for.

A block runs, is a file, or is what the block before it prints:

- ``sh`` and ``python`` run, in order, as a reader pastes them into a terminal;
- a block with ``title="NAME"`` is a file that the reader saves under that name;
- ``json``, ``text`` and ``csv`` are what the block before prints;
- ``powershell`` is for Windows and checked by shape.

``<!-- needs: NAME … -->`` in a page says what has to be there from here on
(``tests.docs.terminal.NEEDS``). There is no way to say that a block is not run.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ("sh", "python")
SHOWN = ("json", "text", "csv")
SHAPED = ("powershell",)
_FENCE = re.compile(r"( *)(`{3,})(\w*) *(.*)")
_TITLE = re.compile(r'title="([^"]+)"')
_NEEDS = re.compile(r"<!-- needs: (.+?) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block; ``needs`` are the names that stand between it and the block before."""

    page: str
    line: int
    kind: str
    title: str
    text: str
    needs: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page whose blocks must run."""
    places = ("README.md", "CONTRIBUTING.md", "docs/*.md", "examples/*/README.md")
    return sorted(path for place in places for path in ROOT.glob(place))


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page in order."""
    needs: list[str] = []
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if said := _NEEDS.search(line):
            needs += said[1].split()
        if not (fence := _FENCE.match(line)):
            continue
        end = fence[1] + fence[2]
        inside = []
        for _, text in lines:
            if text.rstrip() == end:
                break
            inside.append(text)
        title = _TITLE.search(fence[4])
        text = textwrap.dedent("\n".join(inside)) + "\n"
        name = str(page.relative_to(ROOT))
        yield Block(name, number, fence[3], title[1] if title else "", text, tuple(needs))
        needs = []
