"""Errors as responses: one table from the error tree to statuses, one JSON form."""

from __future__ import annotations

import json

from ..errors import (
    InputError,
    InputNotFound,
    InputTooLarge,
    KeyRefused,
    KeyTooWeak,
    NotAcceptable,
    NotServing,
    RequestIdTooLong,
    RunError,
    ScoringRuntimeError,
    UnknownModel,
    UnsupportedContentType,
    UnsupportedMethod,
)
from ..messages import ScoringResponse
from ..script.call import JSON_HEADERS
from ..script.openapi import NoSuchDocument
from ..telemetry.logs import log

_STATUS: tuple[tuple[type[ScoringRuntimeError], int], ...] = (
    (KeyRefused, 401),
    (KeyTooWeak, 403),
    (InputTooLarge, 413),
    (UnsupportedContentType, 415),
    (RequestIdTooLong, 431),
    (NoSuchDocument, 404),
    (InputNotFound, 404),
    (UnknownModel, 404),
    (NotAcceptable, 406),
    (InputError, 400),
    (NotServing, 503),
    (RunError, 500),
)
INTERNAL = "An unexpected internal error occurred. Check the logs for more info."


def error_response(error: ScoringRuntimeError) -> ScoringResponse:
    """The response that a client gets for an error; ``run_ms`` is -1, as run() gave no answer.

    With it the error's tracebacks and causes are forgotten: they hold what was sent.
    """
    forget(error)
    found = told(error)
    if found is None:
        log.error("%s", error)
    return found or message_response(500, INTERNAL)


def told(error: Exception) -> ScoringResponse | None:
    """The same, with nothing forgotten; None if clients are not told what it is.

    Those are for operators: their texts name folders of this machine.
    """
    if isinstance(error, UnsupportedMethod):
        return not_allowed(str(error), error.allowed)
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return message_response(status, str(error), failed=kind is RunError)
    return None


def forget(error: BaseException | None) -> None:
    """Part an error that has been told of from its traceback and from what caused it."""
    while error is not None:
        before = error.__context__ if error.__cause__ is None else error.__cause__
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = before


def not_allowed(message: str, allowed: str) -> ScoringResponse:
    """405, and the header that says which methods are allowed (RFC 9110 §15.5.6)."""
    response = message_response(405, message)
    return response._replace(headers=(*response.headers, (b"allow", allowed.encode())))


def message_response(status: int, message: str, *, failed: bool = False) -> ScoringResponse:
    """``{"message": …}`` with this status."""
    flag = (b"x-ms-run-function-failed", b"True" if failed else b"False")
    # Not orjson: clients that compare the text know it with the standard library's spacing.
    body = json.dumps({"message": message}).encode()
    return ScoringResponse(status, body, (JSON_HEADERS[0], flag), -1)
