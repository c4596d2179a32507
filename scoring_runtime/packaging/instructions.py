"""What to do with a build context: build it, try it, deploy it, send it an input."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

from . import azure_commands
from .specification import FUNCTIONS, ROOTS, SOURCE, Context

_SAMPLE = "sample_input.json"
_OF_THE_IMAGE = frozenset({"PYTHONPATH", "SCORING_AUTH_LEVEL", "SCORING_TRIGGERS"})
_RAW = re.compile(r"^\s*@(\w+\.)*rawhttp\b", re.MULTILINE)


class Section(NamedTuple):
    """Commands under a title; a line that begins with # is a remark."""

    title: str
    lines: tuple[str, ...]


def sections(context: Context, image: str, *, built: bool = False) -> list[Section]:
    """The steps from a context to a running service and its first answer."""
    found = [] if built else [Section("Build", tuple(_build(context, image)))]
    found.append(Section("Try it here without an image", tuple(_locally(context))))
    found.append(Section("Try the image", tuple(_run(context, image))))
    found.append(Section("Deploy to Azure", tuple(azure_commands.deploy(context, image))))
    for trigger in context.triggers or ("http",):
        found.append(_trigger(context, trigger))
    return found


def text(found: list[Section]) -> str:
    """The sections as they are printed."""
    blocks = [f"{each.title}\n" + "\n".join(f"  {line}" for line in each.lines) for each in found]
    return "\n\n".join(blocks)


def _folder(context: Context) -> str:
    return shlex.quote(str(context.path))


def _build(context: Context, image: str) -> Iterator[str]:
    yield f"docker build --target {context.target} -t {image} {_folder(context)}"
    yield "# the same with podman, or with buildah:"
    yield (f"buildah bud --format docker --target {context.target} -t {image} {_folder(context)}")


def _locally(context: Context) -> Iterator[str]:
    functions = context.target == FUNCTIONS
    host = " uvicorn httptools" if functions else ""
    yield f"cd {_folder(context)}"
    yield f"pip install -r requirements.txt{host}   # in an environment of its own"
    if not functions and "AZUREML_ENTRY_SCRIPT" in context.settings:
        yield f"cd {SOURCE}   # as in the image"
    root, given = ROOTS[context.target], context.settings
    here = re.compile(rf"\A{re.escape(root)}(?=/|\Z)")
    settings = {
        name: here.sub(lambda _: str(context.path), value)
        for name, value in given.items()
        if name not in _OF_THE_IMAGE
    }
    settings["PYTHONPATH"] = ":".join(filter(None, [given.get("PYTHONPATH"), str(context.path)]))
    words = "".join(f"{name}={shlex.quote(value)} " for name, value in settings.items())
    yield f"{words}python -m scoring_runtime serve"
    yield f"{_post(context)} http://localhost:5001{_path(context)}   # in another terminal"
    if functions:
        yield "# or, with Azure Functions Core Tools and the packages: func start"


def _run(context: Context, image: str) -> Iterator[str]:
    given = "".join(f'-e "{each.name}=${each.name}" ' for each in context.required)
    if context.target == FUNCTIONS:
        # A container has no keys of its own until its storage does.
        key = "-e SCORING_AUTH_LEVEL=anonymous " if "http" in context.triggers else ""
        yield f"docker run --rm -p 8080:80 {key}{given}{image}"
    else:
        yield f"docker run --rm -p 5001:5001 {given}{image}"
    if "http" in (context.triggers or ("http",)):
        port = 8080 if context.target == FUNCTIONS else 5001
        yield f"{_post(context)} http://localhost:{port}{_path(context)}"


def _trigger(context: Context, trigger: str) -> Section:
    if trigger == "blob":
        source, output = azure_commands.blob_paths_of(context)
        lines = azure_commands.blob(context, _sample(context))
        return Section(f"Blob: {source} → {output}", tuple(lines))
    if trigger == "service_bus":
        source, output = azure_commands.queues_of(context)
        to = f"queue {output}" if output else "the message's reply_to only"
        lines = azure_commands.service_bus(context)
        return Section(f"Service Bus: queue {source} → {to}", tuple(lines))
    path = _path(context)
    return Section(f"HTTP: POST {path}", tuple(azure_commands.http(context, path, _post(context))))


def _post(context: Context) -> str:
    if _is_raw(context):
        return f"curl -H 'Content-Type: application/octet-stream' --data-binary @{_sample(context)}"
    return f"curl -H 'Content-Type: application/json' -d @{_sample(context)}"


def _is_raw(context: Context) -> bool:
    """Whether the script takes the body as it is, so that it need not be JSON."""
    script = context.path / SOURCE / context.settings.get("AZUREML_ENTRY_SCRIPT", "")
    return script.is_file() and bool(_RAW.search(script.read_text("utf-8", "replace")))


def _sample(context: Context) -> str:
    """The sample beside the script if one was packaged, else a name for an input of the user's."""
    if _SAMPLE in context.source_files:
        return shlex.quote(str(context.path / SOURCE / _SAMPLE))
    return "input.bin" if _is_raw(context) else "input.json"


def _path(context: Context) -> str:
    """Of several models without a script and without a default, the first by its name."""
    names = dict.fromkeys(model.partition(":")[0] for model in context.models)
    several = len(names) > 1 and "AZUREML_ENTRY_SCRIPT" not in context.settings
    if several and not context.settings.get("SCORING_DEFAULT_MODEL"):
        return f"/score/{quote(next(iter(names)))}"
    return "/score"
