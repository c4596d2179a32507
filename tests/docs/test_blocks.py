"""Every block of every page runs, is a file, or is what the block before it prints."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, RUN, SHAPED, SHOWN, Block, blocks, pages
from tests.docs.terminal import NEEDS, Terminal, same, served_port

PAGES = [str(page.relative_to(ROOT)) for page in pages()]
RUNNING = [page for page in PAGES if any(each.kind in RUN for each in blocks(ROOT / page))]
# Tried at every change; all pages are, on a new machine, with the long tests.
USUAL = (
    "README.md",
    *(f"docs/{name}.md" for name in ("start", "files-and-blobs", "messages", "cache", "package")),
)
# What a page prints may come a little after the command, as a dropped file's result does.
_PATIENCE = 20


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of this source, as an index would have it."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), "."]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_by_somebody(page: str) -> None:
    """A block of another kind, or output that no block prints, is a mistake of the page."""
    before: Block | None = None
    for block in blocks(ROOT / page):
        assert set(block.needs) <= set(NEEDS), block.place
        if block.title:
            continue
        assert block.kind in (*RUN, *SHOWN, *SHAPED), f"{block.place}: nobody runs {block.kind!r}"
        if block.kind in SHOWN:
            assert before is not None, block.place
            assert before.kind in RUN, f"{block.place}: nothing prints this"
            assert not served_port(before.text), f"{block.place}: a server does not end"
        before = block


def paste_page(page: str, terminal: Terminal) -> None:
    """All blocks of a page, in order; what is shown below a block is compared."""
    found = list(blocks(ROOT / page))
    for index, block in enumerate(found):
        for need in block.needs:
            terminal.provide(need)
        if block.title:
            terminal.save(block)
        elif block.kind in RUN:
            after = found[index + 1] if index + 1 < len(found) else None
            shown = after if after and after.kind in SHOWN and not after.title else None
            _paste(block, shown, terminal)


def _paste(block: Block, shown: Block | None, terminal: Terminal) -> None:
    until = time.monotonic() + _PATIENCE
    waits = block.text.startswith("cat ")
    while True:
        try:
            printed = terminal.paste(block)
        except AssertionError:
            if not waits or time.monotonic() > until:
                raise
            continue
        if shown is None or same(printed, shown.text, shown.kind):
            return
        assert waits and time.monotonic() < until, f"{block.place} prints:\n{printed}"


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[] if p in USUAL else pytest.mark.long) for p in RUNNING]
)
def test_a_page_runs_as_it_is_pasted(page: str, tmp_path: Path) -> None:
    """In the environment of the tests; pip's and venv's command lines are checked by shape."""
    with Terminal(tmp_path) as terminal:
        paste_page(page, terminal)


@pytest.mark.long
@pytest.mark.parametrize("page", RUNNING)
def test_a_page_runs_on_a_new_machine(page: str, tmp_path: Path, wheels: Path) -> None:
    """In an empty virtual environment, with everything installed as the page says."""
    with Terminal(tmp_path, fresh=True, wheels=wheels) as terminal:
        paste_page(page, terminal)


# What a line for Windows may be: the shape of the same line for a shell.
_WINDOWS = (
    r"py -3\.11 -m venv \.venv",
    r"\.venv\\Scripts\\Activate\.ps1",
    r"pip install [\".]+\[[a-z,]+\]\"",
    r"python examples\\\w+\\train\.py",
    r"scoring-runtime serve( --[a-z-]+ [\w\\.]+)+",
    r"curl\.exe -s -H \"Content-Type: [\w/]+\" -d \"@[\w\\.]+\" http://127\.0\.0\.1:5001/score",
    r"\$env:[A-Z_]+ = \"[^\"]+\"",
)


def windows_lines() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(ROOT / page):
            if block.kind in SHAPED:
                yield from ((block.place, line) for line in block.text.splitlines())


@pytest.mark.parametrize(("place", "line"), list(windows_lines()))
def test_a_line_for_windows_has_the_shape_of_a_known_one(place: str, line: str) -> None:
    """Its files exist under their names with slashes."""
    assert any(re.fullmatch(each, line) for each in _WINDOWS), f"{place}: {line}"
    for path in re.findall(r"examples[\w\\.]+", line):
        assert path.endswith("model") or (ROOT / path.replace("\\", "/")).is_file(), path
