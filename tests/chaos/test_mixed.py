"""The short form of ``make chaos``, and what it takes for a problem."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import mixed

GOOD: dict[str, Any] = {
    "recoveries": {"host": [3.0, 9.9]},
    "wrong": 0,
    "failed_else": 0,
    "memory_mb": [100.0, 104.0],
}


@pytest.mark.parametrize(
    ("figures", "problem"),
    [
        ({}, None),
        ({"recoveries": {"host": [1.0], "disk": [10.1]}}, "a recovery took 10.1 s"),
        ({"wrong": 1}, "1 answers were wrong"),
        ({"failed_else": 2}, "2 requests failed without a fault"),
        ({"memory_mb": [100.0, 106.0]}, "memory grew from 100 to 106 MB"),
    ],
)
def test_a_problem_is_named(figures: dict[str, Any], problem: str | None) -> None:
    assert mixed.problems_of(GOOD | figures) == ([problem] if problem else [])


@pytest.mark.long
def test_each_fault_is_over_in_ten_seconds_and_costs_nothing(tmp_path: Path) -> None:
    """A minute: the memory of a host that has just started still grows by what it loads."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    figures = mixed.run(tmp_path, 60, seed)
    print(figures)
    assert mixed.problems_of(figures, growth=0.25) == []
