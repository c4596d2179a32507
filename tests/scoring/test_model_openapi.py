"""Swagger and OpenAPI of models without a script: valid, true, and the same as V2's metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import (
    OpenAPIV2SpecValidator,
    OpenAPIV30SpecValidator,
    OpenAPIV31SpecValidator,
    validate,
)

from tests.models_for_tests import (
    EVERY_MODEL,
    IRIS_NAMES,
    IRIS_ROWS,
    PEOPLE,
    ModelHost,
    registered,
    replies,
    sum_estimator,
)

VALIDATORS = {
    "2": OpenAPIV2SpecValidator,
    "3": OpenAPIV30SpecValidator,
    "3.1": OpenAPIV31SpecValidator,
}
VERSIONS = list(VALIDATORS)
CONTENT_TYPES = [
    "application/json",
    "text/csv",
    "application/jsonl",
    "application/x-npy",
]
JSON_TYPES = {"BOOL": "boolean", "BYTES": "string", "FP16": "number", "FP32": "number"}
JSON_TYPES["FP64"] = "number"

# Bodies that score, as people would write them, and bodies that are refused.
GOOD: Mapping[str, list[Any]] = {
    "addsub/1": [{"inputs": {"a": [[1, 2, 3, 4]] * 2, "b": [[5, 6, 7, 8]] * 2}}],
    "fixed/1": [{"data": [[1, 2, 3], [4.5, 5, 6]]}],
    "iris/1": [{"data": IRIS_ROWS}],
    "iris/2": [{"data": IRIS_ROWS}],
    "matmul/1": [{"data": [[1, 2, 3]] * 3}],
    "named/1": [{"data": [dict(zip(IRIS_NAMES, row, strict=True)) for row in IRIS_ROWS]}],
    "nozip/1": [{"data": IRIS_ROWS}],
    "people/1": [{"data": PEOPLE}],
    "people-onnx/1": [{"data": PEOPLE}],
    "zip/1": [{"data": IRIS_ROWS}],
}
BAD: Mapping[str, list[Any]] = {
    "addsub/1": [
        {"inputs": {"a": [[1, 2, 3, 4]]}},
        {"inputs": {"a": [[1, 2, 3]], "b": [[1, 2, 3]]}},
        {"inputs": {"a": [[1, 2, 3, 0.5]], "b": [[1, 2, 3, 4]]}},
    ],
    "fixed/1": [{"data": [[1, 2, 3]]}],
    "iris/1": [{"data": [[1, 2, 3]]}, {"data": [["a", "b", "c", "d"]]}, {}],
    "matmul/1": [{"data": [[1, 2]]}, {"data": [1, 2, 3]}, {"data": [[True, "x", 1]]}],
    "named/1": [{"data": [dict.fromkeys(IRIS_NAMES[:3], 1.0)]}],
    "people/1": [{"data": [{**PEOPLE[0], "city": 7}]}],
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("documents") / "azureml-models"
    return registered(root, {place: make() for place, make in EVERY_MODEL.items()})


@pytest.fixture(scope="module")
def host(registry: Path) -> Iterator[ModelHost]:
    with ModelHost(registry, environ={"SCORING_DEFAULT_MODEL": "iris"}) as started:
        yield started


EVERY_PATH = {f"/score/{place}" for place in EVERY_MODEL}
EVERY_PATH |= {f"/score/{place.partition('/')[0]}" for place in EVERY_MODEL}


def scored(document: Any) -> set[str]:
    """The paths that score."""
    return {path for path in document["paths"] if path.startswith("/score")}


def document_of(url: str, version: str = "2") -> Any:
    answer = httpx.get(f"{url}/swagger.json", params={"version": version})
    assert answer.status_code == 200
    return answer.json()


def schemas(document: Any) -> Any:
    return document["definitions"] if "swagger" in document else document["components"]["schemas"]


def _name(reference: Mapping[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]


def taken(document: Any, path: str) -> Any:
    """The schema of what a path takes as JSON."""
    post = document["paths"][path]["post"]
    if "swagger" in document:
        [payload] = post["parameters"]
        return schemas(document)[_name(payload["schema"])]
    return schemas(document)[_name(post["requestBody"]["content"]["application/json"]["schema"])]


def given(document: Any, path: str) -> Any:
    """The schema of what it answers as JSON."""
    good = document["paths"][path]["post"]["responses"]["200"]
    if "swagger" in document:
        return schemas(document)[_name(good["schema"])]
    return schemas(document)[_name(good["content"]["application/json"]["schema"])]


# --- valid ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", list(EVERY_MODEL))
def test_the_documents_of_one_model_alone_are_valid(place: str, version: str, tmp_path: Path):
    root = registered(tmp_path / "azureml-models", {place: EVERY_MODEL[place]()})
    [(status, document)] = replies(root / place, "GET", f"/swagger.json?version={version}")
    assert status == 200
    validate(document, cls=VALIDATORS[version])
    name = place.partition("/")[0]
    assert scored(document) == {"/score", f"/score/{name}", f"/score/{place}"}
    assert document["paths"]["/score"]["post"]["operationId"] == "RunMLService"
    assert {"ErrorResponse", "ServiceInput", "ServiceOutput"} <= {*schemas(document)}


# --- complete -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_path_that_scores_is_there(version: str, host: ModelHost):
    document = document_of(host.url, version)
    validate(document, cls=VALIDATORS[version])
    assert scored(document) == {"/score", *EVERY_PATH}
    assert taken(document, "/score/iris") == taken(document, "/score/iris/2")
    assert taken(document, "/score") == taken(document, "/score/iris/2")
    assert given(document, "/score") == given(document, "/score/iris/2")
    operations = [each["operationId"] for path in document["paths"].values()
                  for each in path.values()]  # fmt: skip
    assert len(set(operations)) == len(operations)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_content_types_are_those_that_score(version: str, host: ModelHost):
    document = document_of(host.url, version)
    if version == "2":
        assert document["consumes"] == document["produces"] == CONTENT_TYPES
        return
    for path in ("/score", "/score/matmul/1"):
        post = document["paths"][path]["post"]
        assert list(post["requestBody"]["content"]) == CONTENT_TYPES
        assert list(post["responses"]["200"]["content"]) == CONTENT_TYPES


def test_without_a_default_there_is_no_path_score(registry: Path):
    """Nothing answers there."""
    [(_, document)] = replies(registry, "GET", "/swagger.json")
    assert scored(document) == EVERY_PATH


@pytest.mark.parametrize("version", VERSIONS)
def test_names_that_differ_in_signs_only_are_kept_apart(version: str, tmp_path: Path):
    places = {"a-b/1": 2, "a_b/1": 3, "a.b/1": 4, "a/1": 5, "a_1/1": 6}
    root = registered(
        tmp_path / "azureml-models",
        {place: sum_estimator(width=width) for place, width in places.items()},
    )
    [(_, document)] = replies(root, "GET", f"/swagger.json?version={version}")
    validate(document, cls=VALIDATORS[version])
    operations = {document["paths"][f"/score/{each}"]["post"]["operationId"] for each in places}
    assert len(operations) == len(places)
    for place, width in places.items():
        assert len(taken(document, f"/score/{place}")["example"]["data"][0]) == width


# --- true -----------------------------------------------------------------------------------------

WITH_EXAMPLE = [place for place in EVERY_MODEL if place != "people-onnx/1"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", WITH_EXAMPLE)
def test_the_example_scores_and_its_result_is_the_one_shown(
    place: str, version: str, host: ModelHost
):
    document = document_of(host.url, version)
    path = f"/score/{place}"
    takes, gives = taken(document, path), given(document, path)
    answer = httpx.post(f"{host.url}{path}", json=takes["example"])
    assert answer.status_code == 200
    assert answer.json() == gives["example"]
    jsonschema.validate(takes["example"], takes)
    jsonschema.validate(gives["example"], gives)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_model_whose_example_does_not_score_shows_none(version: str, host: ModelHost):
    """Of an ONNX model with an encoder nobody knows which texts it takes."""
    document = document_of(host.url, version)
    takes = taken(document, "/score/people-onnx/1")
    assert "example" not in takes
    assert given(document, "/score/people-onnx/1") == {}
    record = takes["properties"]["data"]["items"]["properties"]
    kinds = {name: each["type"] for name, each in record.items()}
    assert kinds == {"age": "number", "city": "string", "income": "number", "job": "string"}


@pytest.mark.parametrize("place", list(GOOD))
def test_what_scores_is_what_the_schemas_say(place: str, host: ModelHost):
    document, path = document_of(host.url), f"/score/{place}"
    for body in GOOD[place]:
        jsonschema.validate(body, taken(document, path))
        answer = httpx.post(f"{host.url}{path}", json=body)
        assert answer.status_code == 200, answer.text
        jsonschema.validate(answer.json(), given(document, path))


@pytest.mark.parametrize("place", list(BAD))
def test_what_the_schemas_do_not_allow_is_refused(place: str, host: ModelHost):
    document, path = document_of(host.url), f"/score/{place}"
    for body in BAD[place]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body, taken(document, path))
        assert httpx.post(f"{host.url}{path}", json=body).status_code == 400


# --- the same as V2 -------------------------------------------------------------------------------


def values_of(schema: Any) -> tuple[list[int], str]:
    """The lengths of nested arrays (-1: any) and the type of their values."""
    if schema["type"] != "array":
        return [], schema["type"]
    shape, kind = values_of(schema["items"])
    assert schema.get("minItems") == schema.get("maxItems")
    return [schema.get("minItems", -1), *shape], kind


def inputs_of(document: Any, path: str, tabular: bool) -> list[tuple[str, list[int], str]]:
    """Name, shape and type of each input, as the schema says."""
    [(kind, schema)] = taken(document, path)["properties"].items()
    if tabular:
        record = schema["items"]
        assert record["required"] == list(record["properties"])
        return [(name, [-1], each["type"]) for name, each in record["properties"].items()]
    if kind == "data":
        return [("", *values_of(schema))]
    assert schema["required"] == list(schema["properties"])
    return [(name, *values_of(each)) for name, each in schema["properties"].items()]


@pytest.mark.parametrize("place", list(EVERY_MODEL))
def test_the_metadata_of_v2_say_the_same_inputs(place: str, host: ModelHost):
    name, version = place.split("/")
    metadata = httpx.get(f"{host.url}/v2/models/{name}/versions/{version}").json()
    tabular = name in ("columns", "named", "people", "people-onnx")
    wanted = [
        (
            "" if len(metadata["inputs"]) == 1 else each["name"],
            [-1] if tabular else each["shape"],
            JSON_TYPES.get(each["datatype"], "integer"),
        )
        for each in metadata["inputs"]
    ]
    assert inputs_of(document_of(host.url), f"/score/{place}", tabular) == wanted
    if tabular:  # one value a row
        assert {tuple(each["shape"]) for each in metadata["inputs"]} <= {(-1,), (-1, 1)}


@pytest.mark.parametrize("place", ["addsub/1", "columns/1", "every/3", "nozip/1", "zip/1"])
def test_the_metadata_of_v2_say_the_same_outputs(place: str, host: ModelHost):
    """Of models that answer with several outputs by name."""
    name, version = place.split("/")
    metadata = httpx.get(f"{host.url}/v2/models/{name}/versions/{version}").json()
    schema = given(document_of(host.url), f"/score/{place}")["properties"]
    outputs = schema.get("predictions", {}).get("properties", schema)
    assert list(outputs) == [each["name"] for each in metadata["outputs"]]
