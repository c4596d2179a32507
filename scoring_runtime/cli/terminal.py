"""What people see at a terminal: a progress bar, and tables with colours if rich is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

_BAR_CELLS = 30


def show_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to standard output: in plain text unless that is a terminal."""
    rows = list(rows)
    if not sys.stdout.isatty() or not _show_with_rich(head, rows):
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            print("  ".join(map(str.ljust, row, widths)).rstrip())


def _show_with_rich(head: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError:
        return False
    table = Table(*head, box=None, header_style="bold", pad_edge=False)
    for first, *others in rows:
        table.add_row(Text(first, "cyan"), *map(Text, others))
    Console().print(table)
    return True


class Bar:
    """A progress bar in one line of standard error; written only when a percent or the text after
    it changes."""

    def __init__(self) -> None:
        self._said: tuple[int, str] | None = None

    def __call__(self, done: int, total: int, text: str = "") -> None:
        percent = min(100, 100 * done // max(total, 1))
        if (percent, text) != self._said:
            # What was there of a longer text is written over.
            width = max(len(text), len(self._said[1]) if self._said else 0)
            self._said = percent, text
            cells = "#" * (percent * _BAR_CELLS // 100)
            line = f"\r[{cells:<{_BAR_CELLS}}] {percent:3}%" + (
                f"  {text:<{width}}" if width else ""
            )
            print(line, end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line, if one was begun."""
        if self._said is not None:
            print(file=sys.stderr)
        self._said = None
