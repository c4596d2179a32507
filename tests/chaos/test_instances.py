"""Several instances on one queue and one container, disturbed: nothing lost, nothing doubled."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.instances import Work, trial


@pytest.mark.long
def test_what_strikes_four_instances_costs_no_input(tmp_path: Path) -> None:
    """The trial itself looks at every reply and every document."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    work = Work(2000, 200, 0.02)
    found = trial(tmp_path, 4, work, random.Random(seed))
    print(found)
    assert sum(found["faults"].values()) >= 3, "it was over too soon"
    assert min(found["shares"]) > 0.02
