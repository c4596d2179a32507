"""Building an image from a build context with docker, podman or buildah."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import PackagingError

BUILDERS = ("docker", "podman", "buildah")
_NOTHING: Mapping[str, str | None] = {}
_ANSWER_SECONDS = 30
_STOP_SECONDS = 10
_SHOWN_LINES = 12
_LINE_LENGTH = 300
# Only docker's own format has HEALTHCHECK; buildah keeps layers of earlier builds only if asked.
_OPTIONS = {
    "docker": (),
    "podman": ("--format", "docker"),
    "buildah": ("--format", "docker", "--layers"),
}
# A command that fails unless images can be built: the docker client answers without its daemon.
_PROBES = {"docker": ("version", "--format", "{{.Server.Version}}"), "podman": ("version",)}
_PROBES["buildah"] = _PROBES["podman"]


@dataclass(frozen=True)
class Builder:
    """A program that builds images: its ``name``, its path and options of its own."""

    name: str
    command: tuple[str, ...]


def find_builder(wanted: str = "") -> Builder:
    """The first of docker, podman and buildah that can build, or the one that is ``wanted``.

    Raises:
        PackagingError: none can; the message says of each why.
    """
    if wanted and wanted not in BUILDERS:
        raise PackagingError(f"{wanted!r} is no image builder. Allowed: {', '.join(BUILDERS)}.")
    tried = []
    for name in (wanted,) if wanted else BUILDERS:
        path = shutil.which(name)
        reason = "is not installed" if path is None else _silent(name, path)
        if path is not None and not reason:
            return Builder(name, (path,))
        tried.append(f"{name} {reason}")
    raise PackagingError(
        f"No image can be built here: {'; '.join(tried)}. Install one, or build the context where "
        "there is one, or in Azure: az acr build."
    )


def build(
    context: Path,
    target: str,
    tag: str,
    *,
    builder: Builder,
    build_args: Mapping[str, str | None] = _NOTHING,
    output: Callable[[str], None],
    options: Sequence[str] = (),
) -> str:
    """Build the image of the stage ``target`` from a context; the result is its name, ``tag``.

    A build argument that is None takes its value from this process's environment, so that no list
    of processes shows it. ``output`` is called with each line that the builder writes, as it comes.

    Raises:
        PackagingError: it failed; the message has its last lines.
    """
    said = (name if value is None else f"{name}={value}" for name, value in build_args.items())
    arguments = [argument for each in said for argument in ("--build-arg", each)]
    named = ["--target", target, "--tag", tag, *arguments, *_OPTIONS[builder.name], *options]
    command = [*builder.command, "build", *named, str(context)]
    kept: deque[str] = deque(maxlen=_SHOWN_LINES)

    def take(line: str) -> None:
        kept.append(line)
        output(line)

    code = _run(command, take)
    if code:
        raise PackagingError(_failure(builder.name, code, kept, build_args))
    return tag


def default_tag(model: str, version: int | str = "", target: str = "") -> str:
    """An image's name from a model's: ``My Model``, 3, ``functions`` → ``my-model-functions:3``.

    Without a version the tag is ``latest``. Source of the rules:
    https://github.com/distribution/reference
    """
    parts = (re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in (model, target))
    name = "-".join(filter(None, parts)) or "scoring"
    tag = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(version)).lstrip(".-")
    return f"{name[:128].rstrip('-')}:{tag[:128] or 'latest'}"


def _silent(name: str, path: str) -> str:
    """Why the builder does not answer; empty if it does."""
    try:
        done = subprocess.run(
            [path, *_PROBES[name]],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"is installed but does not answer within {_ANSWER_SECONDS} seconds"
    except OSError as error:
        return f"is installed but cannot be started ({error.strerror})"
    said = [f"exit code {done.returncode}", *(done.stderr or done.stdout).split("\n")]
    reason = next(line.strip().rstrip(".") for line in reversed(said) if line.strip())
    return f"is installed but does not work ({reason})" if done.returncode else ""


def _run(command: Sequence[str], output: Callable[[str], None]) -> int:
    """Run it in a process group of its own, which ends with this call whatever happens."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise PackagingError(f"{command[0]} cannot be started: {error.strerror}.") from error
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                output(line.rstrip("\n"))
            return process.wait()
        except BaseException:
            _stop(process)
            raise


def _stop(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_STOP_SECONDS)
        except (ProcessLookupError, PermissionError):
            return
        except subprocess.TimeoutExpired:
            continue


def _failure(
    name: str, code: int, lines: Iterable[str], build_args: Mapping[str, str | None]
) -> str:
    text = "\n".join(line[:_LINE_LENGTH] for line in lines if line.strip())
    for value in build_args.values():
        # The address of a private index may have a password in it.
        text = text.replace(value, "***") if value and "@" in value else text
    ended = f"{name} could not build the image (exit code {code})"
    shown = "".join(f"\n  {line}" for line in text.splitlines())
    return f"{ended}:{shown}" if shown else f"{ended}."
