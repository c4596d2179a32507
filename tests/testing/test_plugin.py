"""The pytest plugin: its fixture in a run of pytest of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.hosts.standalone import clean_environ

ROOT = Path(__file__).parents[2]
PLUGIN = "scoring_runtime.testing.plugin"
SCRIPT = "def init(): ...\ndef run(raw_data): return raw_data\n"
USES = """
import asyncio, sys, threading
import pytest

def test_one(scoring):
    assert scoring("score.py").http("abc").json() == "abc"

def test_it_was_stopped():
    assert not [each for each in threading.enumerate() if each.name == "scoring"]

@pytest.mark.anyio
async def test_in_a_loop(scoring):
    score = scoring("score.py")
    assert score.message("abc").json() == "abc"
    assert asyncio.get_running_loop().is_running()

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


def run(folder: Path, source: str, *options: str, without: str = "asyncio") -> str:
    """What pytest says of a file of tests beside the script."""
    (folder / "score.py").write_text(SCRIPT)
    (folder / "test_score.py").write_text(source)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", PLUGIN, *options]
    done = subprocess.run(
        [*command, "-p", f"no:{without}", "-p", "no:cacheprovider"],
        cwd=folder,
        env=clean_environ(PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


def test_the_entry_point_is_the_plugin() -> None:
    """By its module's name, so that ``-p`` and the entry point are one plugin."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}


def test_the_fixture_starts_and_stops(tmp_path: Path) -> None:
    assert "3 passed" in run(tmp_path, USES)


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_within_pytest_asyncio(tmp_path: Path, mode: str) -> None:
    """Where every test has a loop that runs."""
    source = USES.replace("@pytest.mark.anyio", "@pytest.mark.asyncio")
    options = [f"asyncio_mode={mode}", "asyncio_default_fixture_loop_scope=function"]
    said = run(tmp_path, source, *(f"-o{each}" for each in options), without="anyio")
    assert "3 passed" in said, said


def test_a_fixture_of_that_name_of_the_users_own_wins(tmp_path: Path) -> None:
    source = (
        "import pytest\n@pytest.fixture\ndef scoring(): return 5\n"
        "def test_own(scoring): assert scoring == 5\n"
    )
    assert "1 passed" in run(tmp_path, source)


def test_a_script_that_fails_shows_the_diagnosis(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def init():\n    1 / 0\ndef run(data): ...\n")
    said = run(tmp_path, "def test_bad(scoring): scoring('bad.py')\n")
    assert "1 failed" in said and "Cause: ZeroDivisionError: division by zero" in said


def test_a_run_that_does_not_use_it_loads_nothing(tmp_path: Path) -> None:
    """The plugin is loaded by every run of pytest where this package is installed."""
    source = (
        "import json, pathlib, sys\n\ndef test_names():\n"
        "    names = [each for each in sys.modules if each.startswith('scoring_runtime')]\n"
        "    pathlib.Path('names.json').write_text(json.dumps([names, 'numpy' in sys.modules]))\n"
    )
    assert "1 passed" in run(tmp_path, source)
    names, numpy = json.loads((tmp_path / "names.json").read_text())
    assert sorted(names) == ["scoring_runtime", "scoring_runtime.testing", PLUGIN]
    assert not numpy
