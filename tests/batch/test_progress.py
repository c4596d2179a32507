"""What people see meanwhile, and at the end."""

from __future__ import annotations

import re
import sys
from collections import Counter

import pytest

from scoring_runtime.batch.crew import Tally
from scoring_runtime.cli.batch import _Progress, _text


def test_a_terminal_shows_a_bar_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show, tally = _Progress(False), Tally(total=1000)
    show(tally)
    tally.scored = 500
    show(tally)
    tally.scored = 1000
    show(tally)
    lines = capsys.readouterr().err.split("\r")[1:]
    assert lines[0].startswith(f"[{' ' * 30}]   0%  0/s")
    assert re.match(rf"\[{'#' * 15} {{15}}\]  50%  [\d,]+/s, 0:00 left", lines[1])
    assert lines[2].startswith(f"[{'#' * 30}] 100%") and lines[2].endswith("\n")


def test_the_end_says_what_has_become_of_all() -> None:
    reasons = Counter({"SchemaMismatch": 2, "RunFailed": 1})
    tally = Tally(1010, 1000, 2, 1, 5, 2, reasons, 10.0, errors="o.csv.errors.jsonl")
    assert _text(tally, "rows").splitlines() == [
        "Scored 1,000 of 1,010 rows in 10.0 s, 100 a second.",
        "Done before: 5.",
        "Refused: 2.",
        "Failed: 1.",
        "Left: 2.",
        "  SchemaMismatch: 2",
        "  RunFailed: 1",
        "Which, and why: o.csv.errors.jsonl",
    ]
