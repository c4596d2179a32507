"""Fixtures that several test modules use."""

from __future__ import annotations

import builtins
import functools
import os
import ssl
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from httpx._config import create_ssl_context
from hypothesis import HealthCheck, settings

from tests.hosts.azurite import Azurite
from tests.hosts.standalone import clean_environ

WriteScript = Callable[..., Path]
# How long an example takes is the machine's affair.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@functools.cache
def _starts_hosts(file: Path) -> bool:
    return "from tests.hosts." in file.read_text(encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start hosts come first: at the end each worker has short ones left to take."""
    items.sort(key=lambda item: not _starts_hosts(item.path))


@pytest.fixture(scope="session", autouse=True)
def certificates_are_read_once() -> Iterator[None]:
    """httpx reads those of all authorities for each client, 20 ms, while a host waits to start."""

    @functools.cache
    def trusted(*_: str | None) -> ssl.SSLContext:
        return create_ssl_context()

    def create(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        if verify is not True or cert is not None or not trust_env:
            return create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
        return trusted(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", create)
        yield


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
