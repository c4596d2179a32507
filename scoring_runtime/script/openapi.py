"""Swagger 2.0 and OpenAPI 3.0 / 3.1 documents of the service.

Own files in ``AML_APP_ROOT`` win: ``swagger.json`` or ``swagger2.json``, ``swagger3.json``,
``swagger3.1.json``. What is generated has the paths, operation ids and definitions that clients
of azureml-inference-server-http know; with ``SCORING_STRICT_COMPAT`` it is what that server's are.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigurationError, ScoringRuntimeError
from ..settings.settings import Settings
from ..telemetry.logs import swagger_log
from ..values.json_results import encoder
from .arguments import schema_carrier
from .openapi_routes import (
    BEARER,
    ERRORS,
    UNAUTHORIZED,
    Service,
    asks,
    more_paths,
    more_schemas,
    schemes,
)

VERSIONS = {"2": "2", "2.0": "2", "3": "3", "3.0": "3", "3.1": "3.1"}
_OWN_FILES = {
    "2": ("swagger.json", "swagger2.json"),
    "3": ("swagger3.json",),
    "3.1": ("swagger3.1.json",),
}
_SPECIFICATION = {"2": {"2", "2.0"}, "3": {"3", "3.0"}, "3.1": {"3.1"}}

_as_json = encoder("null", strict=True)

Json = dict[str, Any]
_JSON = "application/json"
# Only JSON has a schema; of the rest a client has to know the format.
_BINARY = {"type": "string", "format": "binary"}


_NOTHING_SERVED = Service()


class NoSuchDocument(ScoringRuntimeError):
    """The version does not exist, or this script has no document of it."""


@dataclass(frozen=True)
class Documents:
    """The documents by version (``2``, ``3``, ``3.1``), as JSON bytes."""

    by_version: dict[str, bytes] = field(default_factory=dict)

    def get(self, version: str = "2") -> bytes:
        """The document of this version or alias.

        Raises:
            NoSuchDocument: naming the versions there are.
        """
        there = ", ".join(sorted(self.by_version))
        if version not in VERSIONS:
            raise NoSuchDocument(
                f"Swagger version [{version}] is not valid. Supported versions: [{there}]."
            )
        document = self.by_version.get(VERSIONS[version])
        if document is None:
            raise NoSuchDocument(
                f"Swagger version [{version}] is not supported for the scoring script. "
                f"Supported swagger versions: [{there}]."
            )
        return document


def build(
    run: Callable[..., Any], settings: Settings, service: Service = _NOTHING_SERVED
) -> Documents:
    """Read or generate every document that ``run`` allows.

    Args:
        run: of the entry script.
        settings: name, version and prefix of the service, its samples.
        service: what is served.

    Raises:
        ConfigurationError: a swagger file of the user's is not JSON.
    """
    made = {
        version: _own(version, settings) or _generated(version, run, settings, service)
        for version in _OWN_FILES
    }
    found = {version: document for version, document in made.items() if document is not None}
    swagger_log.info(
        "Swaggers are prepared for the following versions: [%s].", ", ".join(sorted(found))
    )
    return Documents(found)


def _own(version: str, settings: Settings) -> bytes | None:
    for name in _OWN_FILES[version]:
        path = Path(settings.app_root, name)
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigurationError(f"{path} is not JSON: {error}") from error
        swagger_log.info("Loaded user's swagger file for version [%s] from %s", version, path)
        if content:
            return json.dumps(content).encode()
    return None


class Scored(NamedTuple):
    """One path that scores: what it takes and gives, as JSON schemas.

    ``suffix`` follows ``/score`` in the path, and tells its names in the document apart. ``also``
    are the suffixes of other paths to the same.
    """

    suffix: str
    service_input: Any
    service_output: Any
    also: tuple[str, ...] = ()


def build_for(
    scored: Sequence[Scored],
    content_types: Sequence[str],
    settings: Settings,
    service: Service = _NOTHING_SERVED,
) -> Documents:
    """The same for models without a script.

    Args:
        scored: one for each path; the first is ``/score``.
        content_types: that can be sent.
        settings: name, version and prefix of the service.
        service: what is served.

    Raises:
        ConfigurationError: a swagger file of the user's is not JSON.
    """
    found = {
        version: _own(version, settings)
        or _document(version, scored, content_types, settings, service)
        for version in _OWN_FILES
    }
    return Documents(found)


def _generated(
    version: str, run: Callable[..., Any], settings: Settings, service: Service
) -> bytes | None:
    schemas = _schemas(version, run, settings)
    if schemas is None:
        return None
    also = [f"/{name}" for name in service.names]
    also += [f"/{name}/{number}" for name, number in service.models]
    scored = Scored("", *schemas, () if settings.strict_compat else tuple(also))
    return _document(version, [scored], [_JSON], settings, service)


def _document(
    version: str,
    scored: Sequence[Scored],
    content_types: Sequence[str],
    settings: Settings,
    service: Service,
) -> bytes:
    make = _swagger2 if version == "2" else _openapi
    document = make(settings, scored, content_types, service)
    if version == "3.1":
        document["openapi"] = "3.1.0"
    return _as_json(document)


def _schemas(version: str, run: Callable[..., Any], settings: Settings) -> tuple[Any, Any] | None:
    carrier = schema_carrier(run)
    if carrier is None:
        nothing = {"type": "object", "example": {}}
        return _sample(settings) or nothing, nothing
    util = sys.modules["inference_schema.schema_util"]
    if not _SPECIFICATION[version] & set(util.get_supported_versions(carrier)):
        return None
    return util.get_input_schema(carrier), util.get_output_schema(carrier)


def _sample(settings: Settings) -> Json | None:
    """The schema of a script's own sample, ``sample_input.json`` beside it."""
    script = settings.script_path
    path = script.with_name(_SAMPLE) if script is not None else Path(settings.app_root, _SAMPLE)
    if settings.strict_compat or not path.is_file() or path.stat().st_size > _LARGEST_SAMPLE:
        return None
    try:
        sample = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        swagger_log.warning("%s is not JSON, so the documents show no sample.", path)
        return None
    kind = next((name for each, name in _KINDS.items() if isinstance(sample, each)), None)
    return {"type": kind, "example": sample} if kind else None


_SAMPLE, _LARGEST_SAMPLE = "sample_input.json", 64 * 1024
_KINDS = {dict: "object", list: "array", str: "string"}


def _info(settings: Settings) -> Json:
    name = settings.service_name
    return {
        "title": name,
        "description": f"API specification for the Azure Machine Learning service {name}",
        "version": settings.service_version,
    }


def _paths(
    settings: Settings, health: Json, scores: Json, swagger: Json, more: Mapping[str, Json]
) -> Json:
    prefix = settings.service_path_prefix.strip("/")
    start = f"/{prefix}" if settings.service_path_prefix else ""
    return {
        f"{start}/": {"get": health},
        **{f"{start}/score{suffix}": {"post": score} for suffix, score in scores.items()},
        f"{start}/swagger.json": {"get": swagger},
        **{f"{start}{path}": methods for path, methods in more.items()},
    }


def _scores(
    scored: Sequence[Scored], settings: Settings, service: Service, tell: Callable[[str], Json]
) -> Json:
    """Its operation by each suffix; ``tell`` gives what it takes and gives by name of schema."""
    asking = asks(_security(settings, service))
    found: Json = {}
    for each in scored:
        for suffix in (each.suffix, *each.also):
            # No version's: "a_1" and version 1 of "a" are two.
            last = ".last" if suffix.count("/") == 1 else ""
            found[suffix] = {
                "operationId": f"RunMLService{_name(suffix)}{last}",
                "description": "Run web service's model and get the prediction output",
                **asking,
                **tell(_name(each.suffix)),
            }
    return found


def _security(settings: Settings, service: Service) -> Json:
    """What is asked for; the old server's documents ask for what nobody looks at."""
    return BEARER if settings.strict_compat else schemes(settings, service)


def _of_document(settings: Settings, service: Service, schema: Json) -> tuple[Json, Json]:
    """What the document's own operation asks for, and can end in."""
    if settings.strict_compat:
        return {}, {}
    return asks(schemes(settings, service)), _failures(settings, service, schema, {})


def _failures(
    settings: Settings, service: Service, schema: Json, errors: Mapping[str, str] = ERRORS
) -> Json:
    """What an operation can end in beside its answer."""
    if settings.strict_compat:
        return {}
    failures = {**errors, **UNAUTHORIZED} if _security(settings, service) else errors
    return {status: {"description": text, **schema} for status, text in sorted(failures.items())}


def _more(settings: Settings, service: Service, *, swagger2: bool = False) -> tuple[Json, Json]:
    """The paths and the schemas of the other routes."""
    if settings.strict_compat:
        return {}, {}
    paths = more_paths(settings, service, swagger2=swagger2)
    return paths, more_schemas(settings, service)


def _name(suffix: str) -> str:
    """``/iris/1`` as ``_iris_1``: no other name and version become the same."""
    return re.sub(r"[^\w./-]", lambda found: f".{ord(found[0]):x}.", suffix, flags=re.A).replace(
        "/", "_"
    )


_HEALTH = {
    "operationId": "ServiceHealthCheck",
    "description": "Simple health check endpoint to ensure the service is up at any given point.",
}
_HEALTHY = "If service is up and running, this response will be returned with the content 'Healthy'"
_SCORED = (
    "The service processed the input correctly and provided a result prediction, if applicable."
)
_INPUT = "The input payload for executing the real-time machine learning service."
_SWAGGER = {"operationId": "GetSwaggerSpec", "description": "Get the Swagger specification."}
_SPECIFIED = {"description": "The Swagger specification."}
_FAILED = "The service failed to execute due to an error."
_ERROR_EXAMPLE = {"message": "POST body is empty. Expecting a JSON dictionary."}
_ERROR = {"type": "object", "properties": {"message": {"type": "string"}}}
_TEXT = {"type": "string"}
_VERSION = {"name": "version", "in": "query", "required": False}
_VERSION_TYPE = {"type": "integer", "enum": [2, 3]}


def _swagger2(
    settings: Settings, scored: Sequence[Scored], content_types: Sequence[str], service: Service
) -> Json:
    def ref(name: str) -> Json:
        return {"$ref": f"#/definitions/{name}"}

    error = {"schema": ref("ErrorResponse")}

    def answers(good: Json, more: Json) -> Json:
        return {"responses": {"200": good, **more, "default": {"description": _FAILED, **error}}}

    def score(name: str) -> Json:
        given = {"description": _SCORED, "schema": ref(f"ServiceOutput{name}")}
        taken = {"parameters": [{**payload, "schema": ref(f"ServiceInput{name}")}]}
        return taken | answers(given, _failures(settings, service, error))

    healthy = {"description": _HEALTHY, "schema": _TEXT}
    health = _HEALTH | answers({**healthy, "examples": {"application/json": "Healthy"}}, {})
    payload = {"name": "serviceInputPayload", "in": "body", "description": _INPUT}
    scores = _scores(scored, settings, service, score)
    swagger = _SWAGGER | {"parameters": [_VERSION | _VERSION_TYPE]}
    asking, refused = _of_document(settings, service, error)
    swagger |= asking | answers({**_SPECIFIED, "schema": _TEXT}, refused)
    paths, schemas = _more(settings, service, swagger2=True)
    security = _security(settings, service)
    return {
        "swagger": "2.0",
        "info": _info(settings),
        **({"schemes": ["https"]} if settings.strict_compat else {}),
        "consumes": list(content_types),
        "produces": list(content_types),
        **({"securityDefinitions": security} if security else {}),
        "paths": _paths(settings, health, scores, swagger, paths),
        "definitions": {**_definitions(scored, settings), **schemas},
    }


def _openapi(
    settings: Settings, scored: Sequence[Scored], content_types: Sequence[str], service: Service
) -> Json:
    def content(kind: str, schema: Json) -> Json:
        return {"content": {kind: {"schema": schema}}}

    def ref(name: str) -> Json:
        return content(_JSON, {"$ref": f"#/components/schemas/{name}"})

    def every(name: str) -> Json:
        others = {kind: {"schema": _BINARY} for kind in content_types if kind != _JSON}
        return {"content": {**ref(name)["content"], **others}}

    error = ref("ErrorResponse")

    def answers(good: Json, more: Json) -> Json:
        return {"responses": {"200": good, **more, "default": {"description": _FAILED, **error}}}

    def score(name: str) -> Json:
        taken = {"description": _INPUT, **every(f"ServiceInput{name}")}
        given = {"description": _SCORED, **every(f"ServiceOutput{name}")}
        return {"requestBody": taken} | answers(given, _failures(settings, service, error))

    healthy = content("text/plain", _TEXT | {"example": "Healthy"})
    health = _HEALTH | answers({"description": _HEALTHY, **healthy}, {})
    scores = _scores(scored, settings, service, score)
    swagger = _SWAGGER | {"parameters": [_VERSION | {"schema": _VERSION_TYPE}]}
    asking, refused = _of_document(settings, service, error)
    swagger |= asking | answers({**_SPECIFIED, **content("text/plain", _TEXT)}, refused)
    paths, schemas = _more(settings, service)
    security = _security(settings, service)
    components = {"schemas": {**_definitions(scored, settings), **schemas}}
    return {
        "openapi": "3.0.3",
        "info": _info(settings),
        **({"security": [{key: [] for key in security}]} if settings.strict_compat else {}),
        "paths": _paths(settings, health, scores, swagger, paths),
        "components": components | ({"securitySchemes": security} if security else {}),
    }


def _definitions(scored: Sequence[Scored], settings: Settings) -> Json:
    found: Json = {}
    for each in scored:
        found[f"ServiceInput{_name(each.suffix)}"] = each.service_input
        found[f"ServiceOutput{_name(each.suffix)}"] = each.service_output
    error = _ERROR if settings.strict_compat else _ERROR | {"example": _ERROR_EXAMPLE}
    return {**found, "ErrorResponse": error}
