"""``--deployment-config`` and ``--deployment-target`` of ``scoring-runtime package``."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

from ..packaging.deployment import files
from ..packaging.deployment.configuration import KINDS, Aci, Configuration, read
from ..packaging.specification import Context

_NO_NAME = re.compile("[^a-z0-9]+")


def configuration_of(options: argparse.Namespace) -> Configuration | None:
    """What the options say of the deployment; None if nothing.

    Raises:
        PackagingError: the file cannot be used, or is for another target.
    """
    said, target = options.deployment_config, options.deployment_target
    if not said and not target:
        return None
    found = read(Path(said)) if said else KINDS.get(target, Aci)()
    files.check_target(target or found.compute_type, found)
    return found


def make(
    made: Context, tag: str, configuration: Configuration | None, options: argparse.Namespace
) -> files.Made | None:
    """Write the files beside the package; None if none are asked for."""
    if configuration is None:
        return None
    target = options.deployment_target or configuration.compute_type
    inside = tag.rpartition("/")[2]
    name = _NO_NAME.sub("-", inside.partition(":")[0].lower()).strip("-")
    name = name[:32].rstrip("-") if name[:1].isalpha() else f"scoring-{name}"[:32].rstrip("-")
    return files.make(files.Deployment(name, inside, target, configuration), made)


def text(made: files.Made) -> str:
    """What was written, and the commands that deploy it."""
    listed = "".join(f"  {name}\n" for name in made.files)
    lines = (f"cd {shlex.quote(str(made.path))}", *made.commands)
    return f"Beside it: {made.path}\n{listed}\nDeploy\n" + "\n".join(f"  {e}" for e in lines)


def document(made: files.Made | None) -> dict[str, Any]:
    """The same for ``--json``; nothing without files."""
    if made is None:
        return {}
    return {"deployment": {"path": str(made.path), "files": made.files, "commands": made.commands}}
