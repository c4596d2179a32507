"""The documents of models without a script: JSON schemas of what they take and give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..formats.by_content_type import SUPPORTED
from ..script.openapi import Documents, Scored, build_for
from ..script.openapi_routes import Service
from ..settings.settings import Settings
from ..values.content import NoCodeModel, Spec
from .model_call import ModelInvocation
from .served import Served, default


def build(
    loaded: Mapping[Served, ModelInvocation], settings: Settings, *, asks_for_key: bool = False
) -> Documents:
    """The documents of every path that scores; ``/score`` is the default model's.

    Raises:
        ConfigurationError: a swagger file of the user's is not JSON.
    """
    there = list(loaded)
    service = Service([each[:2] for each in there], True, asks_for_key)
    one = default(there, settings)
    if len(loaded) == 1 and one is not None:
        paths = (f"/{one.name}", f"/{one.name}/{one.version}")
        return build_for([_scored("", loaded[one], paths)], SUPPORTED, settings, service)
    first = [_scored("", loaded[one])] if one is not None else []
    last = {each.name: each for each in there}
    found = [
        _scored(f"/{m.name}/{m.version}", each, (f"/{m.name}",) if last[m.name] is m else ())
        for m, each in loaded.items()
    ]
    return build_for(first + found, SUPPORTED, settings, service)


def _scored(suffix: str, loaded: ModelInvocation, also: tuple[str, ...] = ()) -> Scored:
    shown = loaded.example if _size(loaded.example) <= _LARGEST_EXAMPLE else None
    result = loaded.example_result if _size(loaded.example_result) <= _LARGEST_EXAMPLE else None
    return Scored(suffix, input_schema(loaded.model, shown), output_schema(result), also)


def _size(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_size, value)) if isinstance(value, list) else 1


# Values: an image would make the document a megabyte.
_LARGEST_EXAMPLE = 1000
_JSON_TYPES = {"B": "boolean", "I": "integer", "U": "integer", "F": "number"}


def json_type(datatype: str) -> dict[str, Any]:
    """The JSON schema of one value of a V2 datatype."""
    return {"type": "string" if datatype == "BYTES" else _JSON_TYPES[datatype[0]]}


def input_schema(model: NoCodeModel, example: Mapping[str, Any] | None) -> dict[str, Any]:
    """The JSON schema of a body: its kind is that of the model's example."""
    kind = next(iter(model.example), "data")
    if model.tabular:
        properties = {spec.name: json_type(spec.datatype) for spec in model.inputs}
        value = _table_schema(kind, model, properties)
    elif len(model.inputs) == 1:
        value = _nested(model.inputs[0])
    else:
        value = {
            "type": "object",
            "properties": {spec.name: _nested(spec) for spec in model.inputs},
            "required": [spec.name for spec in model.inputs if not spec.optional],
        }
    found = {"type": "object", "properties": {kind: value}, "required": [kind]}
    return found if example is None else {**found, "example": example}


def output_schema(result: Any) -> dict[str, Any]:
    """The JSON schema of an answer, read off one; any value when there is none."""
    return {} if result is None else {**schema_of(result), "example": result}


def schema_of(value: Any) -> dict[str, Any]:
    """The JSON schema that a value shows; of a list, that of its first value."""
    if isinstance(value, dict):
        members = {name: schema_of(each) for name, each in value.items()}
        return {"type": "object", "properties": members}
    if isinstance(value, list):
        return {"type": "array", "items": schema_of(value[0]) if value else {}}
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string")):
        if isinstance(value, kind):
            return {"type": name}
    return {}


def _table_schema(kind: str, model: NoCodeModel, properties: dict[str, Any]) -> dict[str, Any]:
    if kind == "dataframe_split":
        names = {"type": "array", "items": {"type": "string", "enum": list(properties)}}
        rows = {"type": "array", "items": {"type": "array", "items": {}}}
        return {
            "type": "object",
            "properties": {"columns": names, "data": rows},
            "required": ["columns", "data"],
        }
    required = [spec.name for spec in model.inputs if not spec.optional]
    record = {"type": "object", "properties": properties, "required": required}
    return {"type": "array", "items": record}


def _nested(spec: Spec) -> dict[str, Any]:
    schema = json_type(spec.datatype)
    for length in reversed(spec.shape):
        schema = {"type": "array", "items": schema}
        if length >= 0:
            schema |= {"minItems": length, "maxItems": length}
    return schema
