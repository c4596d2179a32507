"""Fixtures that several test modules use."""

from __future__ import annotations

import builtins
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.hosts.azurite import Azurite
from tests.hosts.standalone import clean_environ

WriteScript = Callable[..., Path]
# How long an example takes is the machine's affair.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings from outside, and sys.path, print() and the entry module as before."""
    path, modules, real_print = list(sys.path), set(sys.modules), builtins.print
    wanted = clean_environ()
    for name in set(os.environ) - set(wanted):
        monkeypatch.delenv(name)
    yield
    sys.path[:] = path
    builtins.print = real_print
    for name in ("entry_module", "main"):
        if name not in modules:
            sys.modules.pop(name, None)


@pytest.fixture
def anyio_backend() -> str:
    """The loop of tests that are ``async``."""
    return "asyncio"


@pytest.fixture
def write_script(tmp_path: Path) -> WriteScript:
    """``write_script(source, name="score.py")`` → its path, in a folder of its own."""

    def write(source: str, name: str = "score.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """One for all: take containers of your own."""
    with Azurite() as started:
        yield started
