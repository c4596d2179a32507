"""On a local Ray: the same claims, receipts and bytes as in processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.batch.jobs import SUMS, batch, summary
from tests.conftest import WriteScript


@pytest.mark.long
def test_ray_gives_what_processes_give(write_script: WriteScript, tmp_path: Path) -> None:
    script, source = write_script(SUMS), tmp_path / "rows.csv"
    lines = ["refuse,1" if n == 70 else f"{n},1" for n in range(500)]
    source.write_text("a,b\n" + "".join(f"{line}\n" for line in lines))
    words = ("--entry-script", script, "--input", source, "--rows", "50", "--workers", "2")
    # What it keeps of a cluster lies in the home folder.
    environ = {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": "/tmp/ray-test"}
    on_ray = ("--engine", "ray", "--json", "--output", tmp_path / "ray.csv")
    done = batch(*words, *on_ray, **environ)
    assert done.returncode == 2, done.stderr
    told = json.loads(done.stdout)
    assert (told["scored"], told["refused"]) == (499, 1)
    assert summary(*words, "--output", tmp_path / "own.csv", code=2)["scored"] == 499
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "own.csv").read_bytes()
