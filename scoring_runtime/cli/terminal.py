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
    """A progress bar in one line of standard error; written only when a cell or percent changes."""

    def __init__(self) -> None:
        self._percent = -1

    def __call__(self, done: int, total: int) -> None:
        percent = min(100, 100 * done // max(total, 1))
        if percent != self._percent:
            self._percent = percent
            cells = "#" * (percent * _BAR_CELLS // 100)
            print(f"\r[{cells:<{_BAR_CELLS}}] {percent:3}%", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line, if one was begun."""
        if self._percent >= 0:
            print(file=sys.stderr)
