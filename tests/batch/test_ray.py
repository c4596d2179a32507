"""On a local Ray: the same claims, receipts and bytes as in processes; and what a task is."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime.batch.crew import Crew, Tally
from scoring_runtime.batch.job import Asked, Job, job_of
from scoring_runtime.batch.on_ray import scored_by_one
from scoring_runtime.settings.settings import Settings
from tests.batch.jobs import SUMS, batch, summary
from tests.conftest import WriteScript


def job(script: Path, folder: Path, *arguments: str) -> Job:
    """One of a file's mini batch."""
    (folder / "in").mkdir()
    (folder / "in" / "a").touch()
    asked = Asked(str(folder / "in"), str(folder / "out"), arguments=arguments)
    return job_of(Settings.from_environ({"AZUREML_ENTRY_SCRIPT": str(script)}), asked, print)


def told(job: Job) -> tuple[Tally, dict[str, Any]]:
    """What a crew and its only task have to tell."""
    found: dict[str, Any] = {}
    tally = Crew(job, print).run(
        lambda crew: found.update(scored_by_one({"id": [0]}, pickle.dumps(job)))
    )
    return tally, found


def test_a_task_has_the_arguments_of_the_script(
    write_script: WriteScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["a task of Ray", "--node=1"])
    script = write_script(
        "import sys\ndef init(): pass\ndef run(mini_batch): return [sys.argv[1:]]\n"
    )
    tally, found = told(job(script, tmp_path, "--unit", "B"))
    assert (tally.code, found["code"], found["why"]) == (0, [0], [""])
    text = (tmp_path / "out" / "parallel_run_step.txt").read_text()
    assert text == "['--unit', 'B']\n"


def test_a_task_tells_why_a_script_cannot_start(
    write_script: WriteScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process does."""
    monkeypatch.setattr(sys, "argv", ["a task of Ray"])
    script = write_script("def init(): raise OSError('no model')\ndef run(mini_batch): pass\n")
    _, found = told(job(script, tmp_path))
    assert found["code"] == [3]
    assert found["why"][0].endswith("Cause: OSError: no model")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_waits_for_workers_elsewhere_is_interrupted(
    number: int, write_script: WriteScript, tmp_path: Path
) -> None:
    script = write_script("def init(): pass\ndef run(mini_batch): pass\n")

    def hire(_: Crew) -> None:
        os.kill(os.getpid(), number)
        time.sleep(30)

    before, began = signal.getsignal(number), time.monotonic()
    tally = Crew(job(script, tmp_path), print).run(hire)
    assert tally.code == 130 and tally.why.startswith("Interrupted.")
    assert time.monotonic() - began < 10
    assert signal.getsignal(number) is before


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
    found = json.loads(done.stdout)
    assert (found["scored"], found["refused"]) == (499, 1)
    assert summary(*words, "--output", tmp_path / "own.csv", code=2)["scored"] == 499
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "own.csv").read_bytes()
