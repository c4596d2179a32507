"""Swagger and OpenAPI of models without a script: valid, true, and the same as V2's metadata."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
from openapi_spec_validator import (
    OpenAPIV2SpecValidator,
    OpenAPIV30SpecValidator,
    OpenAPIV31SpecValidator,
    validate,
)

from scoring_runtime.http.endpoint import create
from scoring_runtime.http.messages import HttpRequest
from scoring_runtime.scoring.runtime import build
from scoring_runtime.settings.settings import Settings
from tests.models_for_tests import (
    IRIS_NAMES,
    IRIS_ROWS,
    PEOPLE,
    ModelHost,
    add_sub_onnx,
    functions_model_host,
    identity_onnx,
    iris_estimator,
    iris_onnx,
    matmul_onnx,
    named_iris_estimator,
    people_estimator,
    people_onnx,
    registered,
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
MODELS: Mapping[str, Callable[[], Any]] = {
    "addsub/1": add_sub_onnx,
    "columns/1": lambda: identity_onnx(shape=("n",)),
    "every/1": identity_onnx,
    "fixed/1": lambda: matmul_onnx(rows=2),
    "iris/1": lambda: sum_estimator(width=4),
    "iris/10": iris_estimator,
    "matmul/1": matmul_onnx,
    "named/1": named_iris_estimator,
    "nozip/1": lambda: iris_onnx(zipmap=False),
    "people/1": people_estimator,
    "people-onnx/1": people_onnx,
    "zip/1": iris_onnx,
}
JSON_TYPES = {"BOOL": "boolean", "BYTES": "string", "FP16": "number", "FP32": "number"}
JSON_TYPES["FP64"] = "number"

# Bodies that score, as people would write them, and bodies that are refused.
GOOD: Mapping[str, list[Any]] = {
    "addsub/1": [{"inputs": {"a": [[1, 2, 3, 4]] * 2, "b": [[5, 6, 7, 8]] * 2}}],
    "fixed/1": [{"data": [[1, 2, 3], [4.5, 5, 6]]}],
    "iris/1": [{"data": IRIS_ROWS}],
    "iris/10": [{"data": IRIS_ROWS}],
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
    return registered(root, {place: make() for place, make in MODELS.items()})


@pytest.fixture(scope="module")
def host(registry: Path) -> Iterator[ModelHost]:
    with ModelHost(registry, environ={"SCORING_DEFAULT_MODEL": "iris"}) as started:
        yield started


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


def in_this_process(folder: Path, *targets: str, **environ: str) -> list[Any]:
    """Status and JSON of GETs answered by a runtime in this process."""

    async def ask() -> list[Any]:
        runtime = build(Settings.from_environ({"AZUREML_MODEL_DIR": str(folder), **environ}))
        runtime.start()
        await runtime.started()
        endpoint, _ = create(runtime)
        found = []
        for target in targets:
            path, _, query = target.partition("?")
            reply = await endpoint(HttpRequest("GET", path, query.encode(), [], b""))
            found.append((reply.status, json.loads(bytes(reply.body))))  # type: ignore[arg-type]
        await runtime.stop()
        return found

    return asyncio.run(ask())


# --- valid ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_the_documents_are_valid(version: str, host: ModelHost):
    document = document_of(host.url, version)
    validate(document, cls=VALIDATORS[version])
    assert document.get("swagger", document.get("openapi")) in ("2.0", "3.0.3", "3.1.0")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", list(MODELS))
def test_the_documents_of_one_model_alone_are_valid(place: str, version: str, tmp_path: Path):
    root = registered(tmp_path / "azureml-models", {place: MODELS[place]()})
    [(status, document)] = in_this_process(root / place, f"/swagger.json?version={version}")
    assert status == 200
    validate(document, cls=VALIDATORS[version])
    assert list(document["paths"]) == ["/", "/score", "/swagger.json"]
    assert document["paths"]["/score"]["post"]["operationId"] == "RunMLService"
    assert sorted(schemas(document)) == ["ErrorResponse", "ServiceInput", "ServiceOutput"]


@pytest.mark.parametrize(
    ("query", "member", "value"),
    [
        ("", "swagger", "2.0"),
        ("?version=2.0", "swagger", "2.0"),
        ("?version=3.0", "openapi", "3.0.3"),
        ("?version=3.1", "openapi", "3.1.0"),
    ],
    ids=["none", "2.0", "3.0", "3.1"],
)
def test_a_version_is_chosen(query: str, member: str, value: str, host: ModelHost):
    assert httpx.get(f"{host.url}/swagger.json{query}").json()[member] == value


def test_another_version_is_404_with_those_there_are(host: ModelHost):
    answer = httpx.get(f"{host.url}/swagger.json?version=4")
    message = "Swagger version [4] is not valid. Supported versions: [2, 3, 3.1]."
    assert (answer.status_code, answer.json()) == (404, {"message": message})


def test_both_hosts_have_the_same_documents(registry: Path, host: ModelHost):
    with functions_model_host(registry, SCORING_DEFAULT_MODEL="iris") as functions:
        for version in VERSIONS:
            assert document_of(functions.url, version) == document_of(host.url, version)


# --- complete -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_path_that_scores_is_there(version: str, host: ModelHost):
    document = document_of(host.url, version)
    paths = ["/score", *(f"/score/{place}" for place in MODELS)]
    assert sorted(document["paths"]) == sorted(["/", *paths, "/swagger.json"])
    assert taken(document, "/score") == taken(document, "/score/iris/10")
    assert given(document, "/score") == given(document, "/score/iris/10")
    operations = [each["operationId"] for path in document["paths"].values()
                  for each in path.values()]  # fmt: skip
    assert len(set(operations)) == len(operations) == len(paths) + 2


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
    [(_, document)] = in_this_process(registry, "/swagger.json")
    assert sorted(document["paths"]) == sorted(
        ["/", "/swagger.json", *(f"/score/{place}" for place in MODELS)]
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_names_that_differ_in_signs_only_are_kept_apart(version: str, tmp_path: Path):
    places = {"a-b/1": 2, "a_b/1": 3, "a.b/1": 4, "a/1": 5, "a_1/1": 6}
    root = registered(
        tmp_path / "azureml-models",
        {place: sum_estimator(width=width) for place, width in places.items()},
    )
    [(_, document)] = in_this_process(root, f"/swagger.json?version={version}")
    validate(document, cls=VALIDATORS[version])
    operations = {document["paths"][f"/score/{each}"]["post"]["operationId"] for each in places}
    assert len(operations) == len(places)
    for place, width in places.items():
        assert len(taken(document, f"/score/{place}")["example"]["data"][0]) == width


def test_the_service_is_named_by_the_settings(registry: Path):
    environ = {
        "SERVICE_NAME": "flowers",
        "SERVICE_VERSION": "7",
        "SERVICE_PATH_PREFIX": "/api/v1/",
    }
    [(_, document)] = in_this_process(registry / "iris" / "10", "/swagger.json", **environ)
    assert document["info"]["title"] == "flowers"
    assert document["info"]["version"] == "7"
    assert list(document["paths"]) == ["/api/v1/", "/api/v1/score", "/api/v1/swagger.json"]


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("swagger.json", "2"),
        ("swagger2.json", "2"),
        ("swagger3.json", "3"),
        ("swagger3.1.json", "3.1"),
    ],
)
def test_a_document_of_the_users_own_wins(name: str, version: str, registry: Path, tmp_path: Path):
    (tmp_path / name).write_text('{"mine": true}')
    targets = [f"/swagger.json?version={each}" for each in VERSIONS]
    found = in_this_process(registry / "iris" / "10", *targets, AML_APP_ROOT=str(tmp_path))
    for each, (status, document) in zip(VERSIONS, found, strict=True):
        assert status == 200
        assert (document == {"mine": True}) is (each == version)


# --- true -----------------------------------------------------------------------------------------

WITH_EXAMPLE = [place for place in MODELS if place != "people-onnx/1"]


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


def test_the_example_of_the_default_scores_at_score(host: ModelHost):
    document = document_of(host.url)
    answer = httpx.post(f"{host.url}/score", json=taken(document, "/score")["example"])
    assert (answer.status_code, answer.json()) == (200, given(document, "/score")["example"])


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


@pytest.mark.parametrize("place", list(MODELS))
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


@pytest.mark.parametrize("place", ["addsub/1", "columns/1", "every/1", "nozip/1", "zip/1"])
def test_the_metadata_of_v2_say_the_same_outputs(place: str, host: ModelHost):
    """Of models that answer with several outputs by name."""
    name, version = place.split("/")
    metadata = httpx.get(f"{host.url}/v2/models/{name}/versions/{version}").json()
    schema = given(document_of(host.url), f"/score/{place}")["properties"]
    outputs = schema.get("predictions", {}).get("properties", schema)
    assert list(outputs) == [each["name"] for each in metadata["outputs"]]
