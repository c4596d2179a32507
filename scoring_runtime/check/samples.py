"""The samples of a script or a model: files beside it, and the example of its schema."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from ..models import manifest
from ..scoring.golden import sample_files
from ..scoring.runtime import Runtime
from ..scoring.served import default
from ..triggers.outcomes import content_type_of, is_read

_MOST = 20


class Sample(NamedTuple):
    """One input; ``model`` is ``name/version``, and nothing for the default."""

    name: str
    body: bytes
    content_type: str
    model: str = ""


def samples(runtime: Runtime, more: Sequence[str]) -> list[Sample]:
    """At most 20: those that are named, the files, the examples of the schemas."""
    limit = runtime.settings.max_body_bytes
    named = (_read(Path(each), "", limit) for each in more)
    found = list(islice(chain(named, _beside(runtime, limit)), _MOST))
    bodies = {(each.model, _meant(each.body)) for each in found}
    shown = (each for each in _examples(runtime) if len(each.body) <= limit)
    found += [each for each in shown if (each.model, _meant(each.body)) not in bodies]
    return found[:_MOST]


def _beside(runtime: Runtime, limit: int) -> Iterator[Sample]:
    settings = runtime.settings
    if runtime.has_script:
        script = settings.script_path or Path(settings.app_root, "main.py")
        yield from _files(script.parent, "", limit, has_script=True)
        return
    by_default = default(runtime.served, settings)
    for model in runtime.served:
        assert model.folder is not None
        name = "" if model is by_default else f"{model.name}/{model.version}"
        for place in [model.folder] if name else [model.folder, model.folder.parent]:
            yield from _files(place, name, limit, has_script=False)
        if (registered := manifest.sample_of(model.folder)) is not None:
            suffix, text = registered
            kind = content_type_of("", f"a{suffix}")
            yield Sample(f"registered with {model.identity}", text.encode(), kind, name)


def _files(folder: Path, model: str, limit: int, *, has_script: bool) -> Iterator[Sample]:
    for path in sample_files(folder):
        if is_read(path.name, has_script):
            yield _read(path, model, limit)


def _read(path: Path, model: str, limit: int) -> Sample:
    with path.open("rb") as file:
        body = file.read(limit + 1)  # no more than is refused
    return Sample(str(path), body, content_type_of("", path.name), model)


def _examples(runtime: Runtime) -> Iterator[Sample]:
    """What the documents show as inputs, by path."""
    documents = list(runtime.documents.by_version.values())
    document = json.loads(documents[0]) if documents else {}
    start = runtime.settings.service_path_prefix.strip("/")
    for path, methods in document.get("paths", {}).items():
        route = path.removeprefix(f"/{start}" if start else "")
        model = route.removeprefix("/score").strip("/")
        is_wanted = not model or ("/" in model and len(runtime.served) > 1)
        example = _example(document, methods.get("post", {})) if is_wanted else None
        if route.startswith("/score") and example:
            name = f"the schema's example{f' of {model}' if model else ''}"
            yield Sample(name, json.dumps(example).encode(), "application/json", model)


def _example(document: dict[str, Any], operation: dict[str, Any]) -> Any:
    """What a path is given: in Swagger 2 a parameter, in OpenAPI 3 the body of the request."""
    with contextlib.suppress(
        LookupError, AttributeError, TypeError, ValueError
    ):  # a document of the user's
        if "definitions" in document:
            [given] = [each for each in operation["parameters"] if each["in"] == "body"]
            there = document["definitions"]
        else:
            given = operation["requestBody"]["content"]["application/json"]
            there = document["components"]["schemas"]
        return there[given["schema"]["$ref"].rpartition("/")[2]]["example"]
    return None


def _meant(body: bytes) -> str:
    """The same for two bodies of the same JSON."""
    try:
        return json.dumps(json.loads(body), sort_keys=True)
    except ValueError:
        return repr(body)
