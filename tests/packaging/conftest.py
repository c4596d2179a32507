"""What several tests of the packager start from: a script, a model, their package, a command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from scoring_runtime.packaging import model_files
from scoring_runtime.packaging.context import make
from scoring_runtime.packaging.specification import Context, Specification
from tests.hosts.standalone import clean_environ

MODULE = (sys.executable, "-m", "scoring_runtime", "package", "--no-resolve", "--no-check")
SCRIPT = "def init():\n    pass\n\n\ndef run(data):\n    return data\n"

Package = Callable[..., Context]
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a script, a module that it imports, and a file."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "score.py").write_text(f"import helper\n\n\n{SCRIPT}")
    (folder / "helper.py").write_text("X = 1\n")
    (folder / "labels.txt").write_text("a\nb\n")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that stands for a model."""
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def specification(source: Path, model: Path) -> Specification:
    """A script with its folder and one model, for HTTP on Functions."""
    return Specification(
        models=(model_files.from_path("net", 1, model),),
        entry_script=source / "score.py",
        source_dir=source,
    )


@pytest.fixture
def package(tmp_path: Path, specification: Specification) -> Package:
    """``package(output, **changes)``: the context of the specification with these changes."""

    def run(output: str | Path = "package", overwrite: bool = False, **changes: object) -> Context:
        wanted = replace(specification, **changes)  # type: ignore[arg-type]
        return make(wanted, tmp_path / output, resolve=False, overwrite=overwrite)

    return run


def command(folder: Path, *arguments: str | bytes, **environ: str) -> Done:
    """``scoring-runtime package`` in a process of its own; pip is not asked, nothing is tried."""
    return subprocess.run(
        [*MODULE, *arguments],
        cwd=folder,
        env={**clean_environ(), **environ},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
    )


def hidden(folder: Path) -> list[str]:
    """What a run that did not end well left in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may write to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """This process is one that permissions bind."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
