"""The blob trigger on Azure Functions: one function, with an output and an error document."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import azure.functions as func

from ..connections.named import blob, blob_name
from ..scoring.runtime import Runtime
from ..telemetry.request_ids import RandomIds
from ..triggers.blob_paths import BlobPaths, blob_paths
from ..triggers.outcomes import (
    INPUT_KEY,
    Outcome,
    Scoring,
    Verdict,
    blob_request,
    directed,
    directions,
    failed,
    is_folder,
)
from ..values.wording import too_large
from .invocations import TryAgain, in_trace, name_invocation


def register(app: func.FunctionApp, runtime: Runtime, scoring: Scoring) -> None:
    """Add the function ``score_blob``.

    Raises:
        ConfigurationError: a path is wrong, or the connection is not set.
    """
    settings = runtime.settings
    paths, connection = blob_paths(settings), blob_name(settings)
    blob(settings)
    runtime.listens["blob"] = paths.listens_to(settings)
    handler = in_trace(_handler(runtime, scoring, paths), runtime)
    for name, path in (("error", paths.error), ("output", paths.output)):
        handler = app.blob_output(
            arg_name=name, path=path.text, connection=connection, data_type=func.DataType.BINARY
        )(handler)
    source = {"source": func.BlobSource.EVENT_GRID} if settings.blob_source == "EventGrid" else {}
    handler = app.blob_trigger(
        arg_name="blob",
        path=paths.input.text,
        connection=connection,
        data_type=func.DataType.BINARY,  # else the host sends text
        **source,
    )(handler)
    app.function_name("score_blob")(handler)


def _handler(runtime: Runtime, scoring: Scoring, paths: BlobPaths) -> Callable[..., Any]:
    limit, new_id = runtime.settings.blob_max_bytes, RandomIds()

    async def invoke(
        blob: func.InputStream,
        output: func.Out[bytes],
        error: func.Out[bytes],
        context: func.Context,
    ) -> None:
        metadata: dict[str, str] = getattr(blob, "metadata", None) or {}
        if is_folder(metadata):
            return
        name, body, request_id = blob.name or "", blob.read(), new_id().decode()
        if len(body) > limit:
            outcome = failed(too_large("The blob", limit, "BLOB_MAX_BYTES"))
        else:
            key = next((str(metadata[each]) for each in metadata if each.lower() == INPUT_KEY), "")
            request = blob_request(name, body, *_content(blob), key, request_id=request_id)
            named = paths.directions(name.partition("/")[2])
            request = directed(request, named | directions(metadata))
            request = request._replace(enter=partial(name_invocation, context))
            outcome = await scoring(request, f"blob {name}")
        if outcome.verdict is Verdict.FAILED:
            # The host tries five times (poisonBlobThreshold), then puts it on the poison queue.
            scoring.retries.add()
            raise TryAgain(f"{outcome.reason}: {outcome.description}")
        (output if outcome.verdict is Verdict.SCORED else error).set(_body(outcome, request_id))
        scoring.answered(_changed(blob), error=outcome.verdict is Verdict.REFUSED)

    return invoke


def _body(outcome: Outcome, request_id: str) -> bytes:
    """The document: an error of ours says its id itself, as the binding writes no metadata."""
    if not outcome.is_ours:
        return outcome.body
    return json.dumps({**json.loads(outcome.body), "request_id": request_id}).encode()


def _changed(blob: func.InputStream) -> float:
    """When it was changed last, in seconds since 1970, where the host says it; else 0."""
    said = (getattr(blob, "blob_properties", None) or {}).get("LastModified")
    try:
        return datetime.fromisoformat(str(said)).timestamp()
    except ValueError:
        return 0.0


def _content(blob: func.InputStream) -> tuple[str, str]:
    """Content type and encoding, where the host says them."""
    said = getattr(blob, "blob_properties", None) or {}
    return str(said.get("ContentType") or ""), str(said.get("ContentEncoding") or "")
