"""What pip's output says went wrong, in one or two lines.

The phrases are those of pip 22.3 and later (``pip/_internal/resolution/resolvelib/factory.py``,
``pip/_internal/network``). Nothing of the output is passed on but names of packages, versions, and
what is left of an error when addresses are taken out.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .environments_files import without_credentials

_NETWORK = re.compile(
    r"Retry\(total=0|Could not fetch URL|NewConnectionError|ConnectTimeoutError|ReadTimeoutError"
    r"|NameResolutionError|Max retries exceeded|ProxyError|Connection (aborted|refused|reset)"
    r"|There was a problem confirming the ssl certificate|Network is unreachable"
    r"|(Read|Connection) timed out|HTTPSConnectionPool|Failed to establish"
)
_REFUSED = re.compile(r"\b(401|403|407) (Client )?Error|User for .*:|Credentials not correct")
_NOT_FOUND = re.compile(
    r"^ERROR: Could not find a version that satisfies the requirement (?P<requirement>.+?)"
    r"(?: \(from (?P<parent>(?!versions)[^()]*(?:\([^()]*\))?[^()]*)\))? "
    r"\(from versions: (?P<versions>[^)]*)\)",
    re.MULTILINE,
)
_OTHER_PYTHON = re.compile(
    r"Ignored the following versions that require a different python version: (?P<versions>.+)"
)
_CONFLICT = re.compile(
    r"The conflict is caused by:\s*\n(?P<causes>(?:[ \t]+\S.*\n?)+)", re.MULTILINE
)
_BUILD = re.compile(
    r"metadata-generation-failed|subprocess-exited-with-error|Failed to build|build dependencies"
    r"|Cannot import 'setuptools|BackendUnavailable"
)
_COLLECTING = re.compile(r"^Collecting (?P<requirement>\S+)", re.MULTILINE)
_NO_PIP = re.compile(r"No module named '?pip\b")
# Other errors are about this machine: its disk, or how its pip is set up.
_ITS_FAULT = re.compile(r"wheel|invalid|inconsistent|double requirement", re.I)
_ADDRESS = re.compile(r"(?:\w+\+)?\w+://\S+")
_SHOWN = 8


class Trouble(NamedTuple):
    """Why pip failed; ``certain`` if the requirements are at fault and no other place can do.

    ``unbuilt`` if there is no wheel of a package, which would have to be built from source.
    """

    text: str
    certain: bool
    requirement: str = ""
    unbuilt: bool = False


def trouble(output: str) -> Trouble:
    """What pip's output, both streams of it, says."""
    not_found = _NOT_FOUND.search(output)
    away = _NETWORK.search(output) or _REFUSED.search(output)
    if _NO_PIP.search(output):
        return Trouble("pip is not installed here", certain=False)
    if away and not (not_found and not_found["versions"] != "none"):
        return Trouble(_of_network(output), certain=False)
    if not_found:
        return _of_missing(not_found, output)
    conflict = _CONFLICT.search(output)
    if conflict:
        return Trouble(_of_conflict(conflict["causes"]), certain=True)
    if _BUILD.search(output):
        return Trouble(_of_build(output), certain=False, unbuilt=True)
    return _of_other(output)


def _of_network(output: str) -> str:
    if _REFUSED.search(output):
        return "the package index refuses to answer without signing in"
    return "the package index cannot be reached"


def _of_missing(found: re.Match[str], output: str) -> Trouble:
    requirement = _said(found["requirement"])
    by = f", which {_said(found['parent'])} asks for," if found["parent"] else ""
    text = f"there is no {requirement}{by}"
    versions, other = _versions(found["versions"]), _of_other_python(requirement, output)
    if other:
        text += f" for the Python of the image: {other}"
    elif versions:
        text += f" for this Python and system; there are {versions}"
    else:
        text += " in the package index"
    return Trouble(text.replace(",;", ";"), certain=True, requirement=requirement)


def _versions(text: str) -> str:
    """The last few of pip's list, which begins with the oldest."""
    every = [each for each in text.split(", ") if re.fullmatch(r"[\w.!+-]+", each)]
    if every in ([], ["none"]):
        return ""
    return ("…, " if len(every) > _SHOWN else "") + ", ".join(every[-_SHOWN:])


def _of_other_python(requirement: str, output: str) -> str:
    """The versions that fit and need another Python: pip's list of those names no package."""
    from packaging.requirements import InvalidRequirement, Requirement

    listed = _OTHER_PYTHON.search(output)
    try:
        wanted = Requirement(requirement).specifier
    except InvalidRequirement:
        return ""
    if listed is None or not wanted:
        return ""
    pairs = (each.partition(" Requires-Python ") for each in listed["versions"].split("; "))
    fitting = [
        f"{version} needs Python {_said(python)}"
        for version, _, python in pairs
        if re.fullmatch(r"[\w.!+]+", version) and wanted.contains(version, prereleases=True)
    ]
    return ", ".join(dict.fromkeys(fitting[-3:]))


def _of_conflict(causes: str) -> str:
    lines = list(dict.fromkeys(_said(line) for line in causes.splitlines() if line.strip()))
    said = [line.replace("The user requested ", "") for line in lines]
    more = f", and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return f"these exclude each other: {'; '.join(said[:_SHOWN])}{more}"


def _of_build(output: str) -> str:
    collected = _COLLECTING.findall(output)
    name = _said(collected[-1]) if collected else "one of them"
    return f"{name} has no wheel that fits, and building it from source fails here"


def _of_other(output: str) -> Trouble:
    errors = [line for line in output.splitlines() if line.startswith("ERROR: ")]
    lines = errors or [line for line in output.splitlines() if line.strip()][-1:]
    text = _said(lines[0].removeprefix("ERROR: ")).rstrip(".") if lines else ""
    certain = bool(errors) and bool(_ITS_FAULT.search(text))
    return Trouble(text or "pip does not say why", certain=certain)


def _said(text: str) -> str:
    """Text of pip's without addresses, credentials and the file that was made for it."""
    plain = re.sub(r"\s*\(from -r [^()]*\(line \d+\)\)|\s*\(from -r \S+\)", "", text)
    plain = _ADDRESS.sub("(address)", without_credentials(plain))
    return " ".join(plain.split())[:300]
