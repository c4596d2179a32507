"""Swagger 2.0 and OpenAPI 3.0 / 3.1 documents: generated ones and the user's own (rows 59-61)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest

from scoring_runtime.errors import ConfigurationError
from scoring_runtime.script import entry_script, openapi
from scoring_runtime.script.openapi import Documents, NoSuchDocument
from scoring_runtime.script.openapi_routes import Service
from scoring_runtime.settings.settings import Settings

WriteScript = Callable[..., Path]

INFO = {
    "title": "Iris",
    "description": "API specification for the Azure Machine Learning service Iris",
    "version": "7.1",
}
ANYTHING = {"type": "object", "example": {}}
ERROR = {
    "type": "object",
    "properties": {"message": {"type": "string"}},
    "example": {"message": "POST body is empty. Expecting a JSON dictionary."},
}
OTHERS = ("/health/live", "/health/ready", "/metrics", "/status", "/results/{id}")
DEFINITIONS = {"ServiceInput": ANYTHING, "ServiceOutput": ANYTHING, "ErrorResponse": ERROR}
SAYS_ITS_VERSION = {"2": {"swagger": "2.0"}, "3": {"openapi": "3.0.3"}, "3.1": {"openapi": "3.1.0"}}
OPERATIONS = {
    "/": ["get", "ServiceHealthCheck"],
    "/score": ["post", "RunMLService"],
    "/swagger.json": ["get", "GetSwaggerSpec"],
}
ALIASES = {"2": "2", "2.0": "2", "3": "3", "3.0": "3", "3.1": "3.1"}
PLAIN = "def init(): ...\ndef run(data): ...\n"
TYPES = """
import numpy as np
import pandas as pd
from inference_schema.schema_decorators import input_schema, output_schema
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
def init(): ...
"""


def documents(path: Path, **environ: str) -> Documents:
    """The documents of a script whose folder is the app root."""
    said = {"AML_APP_ROOT": str(path.parent), "AZUREML_ENTRY_SCRIPT": path.name}
    settings = Settings.from_environ({**said, **environ})
    return openapi.build(entry_script.load(settings).run, settings)


# --- the documents of an undecorated script -------------------------------------------------------


@pytest.mark.keep
@pytest.mark.parametrize("version", ["2", "3", "3.1"])
@pytest.mark.parametrize(
    "source",
    [
        PLAIN,
        "from scoring_runtime import rawhttp\n" + PLAIN.replace("def run", "@rawhttp\ndef run"),
    ],
    ids=["text", "raw"],
)
def test_the_document_of_an_undecorated_script(
    source: str, version: str, write_script: WriteScript
) -> None:
    """Row 60: what clients go by; the words are compared with the old server's own elsewhere."""
    found = documents(write_script(source), SERVICE_NAME="Iris", SERVICE_VERSION="7.1")
    assert definitions(found, version).items() >= DEFINITIONS.items()
    document = json.loads(found.get(version))
    openapi_spec_validator.validate(document)
    assert document["info"] == INFO
    assert document.items() >= SAYS_ITS_VERSION[version].items()
    operations = {
        path: [method, each["operationId"]]
        for path, methods in document["paths"].items()
        for method, each in methods.items()
    }
    assert operations.items() >= OPERATIONS.items()
    assert operations.keys() - OPERATIONS.keys() == set(OTHERS)
    score = document["paths"]["/score"]["post"]
    assert {*score["responses"]} == {"200", "400", "413", "415", "500", "503", "default"}
    assert "security" not in score
    assert not {"schemes", "security", "securityDefinitions"} & document.keys()
    [asked] = document["paths"]["/swagger.json"]["get"]["parameters"]
    kind = {"type": "integer", "enum": [2, 3]}
    where = {"name": "version", "in": "query", "required": False}
    assert asked == {**where, **(kind if version == "2" else {"schema": kind})}


@pytest.mark.keep
@pytest.mark.parametrize(("alias", "version"), ALIASES.items())
def test_versions_have_aliases(alias: str, version: str, write_script: WriteScript) -> None:
    """Row 3: 2 is 2.0, 3 is 3.0; without a version it is 2."""
    found = documents(write_script(PLAIN))
    assert found.get(alias) == found.by_version[version]
    assert found.get() == found.by_version["2"]


@pytest.mark.keep
@pytest.mark.parametrize(("prefix", "start"), [("", ""), ("p", "/p"), ("/p/q/", "/p/q")])
def test_the_prefix_is_in_the_paths(prefix: str, start: str, write_script: WriteScript) -> None:
    """Row 5: SERVICE_PATH_PREFIX, slashes at its ends aside."""
    found = documents(write_script(PLAIN), SERVICE_PATH_PREFIX=prefix)
    for version in ("2", "3", "3.1"):
        paths = list(json.loads(found.get(version))["paths"])
        known = ["/", "/score", "/swagger.json", *OTHERS]
        assert paths == [f"{start}{path}" for path in known]


@pytest.mark.keep
def test_the_default_title_and_version(write_script: WriteScript) -> None:
    """Row 48."""
    info = json.loads(documents(write_script(PLAIN)).get())["info"]
    assert (info["title"], info["version"]) == ("ML service", "1.0")


@pytest.mark.parametrize("version", ["2", "3", "3.1"])
def test_what_is_served_and_asked_for_is_in_it(version: str, write_script: WriteScript) -> None:
    """Names, V2, inputs and the key are there where they are; the sample beside the script too."""
    script = write_script(PLAIN)
    script.with_name("sample_input.json").write_text('{"rows": [1]}', encoding="utf-8")
    said = {"AML_APP_ROOT": str(script.parent), "AZUREML_ENTRY_SCRIPT": script.name}
    settings = Settings.from_environ({**said, "CACHE_URL": "memory://"})
    service = Service([("iris", "1"), ("iris", "2")], True, True)
    found = openapi.build(entry_script.load(settings).run, settings, service)
    document = json.loads(found.get(version))
    openapi_spec_validator.validate(document)
    named = {f"/score/{each}" for each in ("iris", "iris/1", "iris/2")}
    model = "/v2/models/{name}"
    v2 = {"/v2", model, f"{model}/ready", f"{model}/infer"}
    assert {*document["paths"]} == {*OPERATIONS, *OTHERS, *named, *v2, "/inputs/{key}"}
    assert definitions(found, version)["ServiceInput"]["example"] == {"rows": [1]}
    operations = [each for methods in document["paths"].values() for each in methods.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    for place in ("/score/iris/2", "/metrics", f"{model}/infer"):
        [operation] = document["paths"][place].values()
        assert operation["security"] == [{"FunctionKey": []}], place
    [name] = document["paths"][model]["get"]["parameters"]
    assert name.get("schema", name)["enum"] == ["iris"]


# --- decorated scripts ----------------------------------------------------------------------------


def definitions(found: Documents, version: str) -> Any:
    document = json.loads(found.get(version))
    return document["definitions"] if version == "2" else document["components"]["schemas"]


@pytest.mark.keep
@pytest.mark.parametrize("version", ["2", "3", "3.1"])
def test_a_numpy_script(version: str, write_script: WriteScript) -> None:
    """Row 60: input and output as inference-schema describes them; all else as before."""
    path = write_script(
        TYPES + "@input_schema('data', NumpyParameterType(np.array([[1.5, 2.0]])))\n"
        "@output_schema(StandardPythonParameterType({'label': 'a', 'score': 0.5}))\n"
        "def run(data, scale=1): ...\n"
    )
    found = documents(path)
    row = {"type": "array", "items": {"type": "number", "format": "double"}}
    expected = {
        "ServiceInput": {
            "type": "object",
            "properties": {
                "data": {"type": "array", "items": row, "format": "numpy.ndarray"},
                "scale": {},
            },
            "example": {"data": [[1.5, 2.0]], "scale": ""},
        },
        "ServiceOutput": {
            "type": "object",
            "required": ["label", "score"],
            "properties": {
                "label": {"type": "string"},
                "score": {"type": "number", "format": "double"},
            },
            "example": {"label": "a", "score": 0.5},
        },
        "ErrorResponse": ERROR,
    }
    assert definitions(found, version).items() >= expected.items()


@pytest.mark.keep
def test_a_pandas_script(write_script: WriteScript) -> None:
    """Row 60: a data frame is an array of records."""
    path = write_script(
        TYPES + "moments = pd.to_datetime(['2024-01-02'])\n"
        "sample = pd.DataFrame({'a': [1], 'b': ['x'], 't': moments})\n"
        "@input_schema('data', PandasParameterType(sample))\n"
        "def run(data): ...\n"
    )  # fmt: skip
    service_input = definitions(documents(path), "2")["ServiceInput"]
    data = service_input["properties"]["data"]
    assert (data["type"], data["format"]) == ("array", "pandas.DataFrame:records")
    properties = data["items"]["properties"]
    assert {name: each["type"] for name, each in properties.items()} == {
        "a": "integer",
        "b": "string",
        "t": "string",
    }
    assert properties["t"]["format"] == "date-time"
    assert [set(row) for row in service_input["example"]["data"]] == [{"a", "b", "t"}]


@pytest.mark.keep
def test_output_schema_alone(write_script: WriteScript) -> None:
    """Row 21: the input is any object."""
    path = write_script(
        TYPES + "@output_schema(StandardPythonParameterType([1]))\ndef run(data): ...\n"
    )
    found = definitions(documents(path), "2")
    assert found["ServiceInput"] == {"type": "object"}
    assert found["ServiceOutput"] == {
        "type": "array",
        "items": {"type": "integer", "format": "int64"},
        "example": [1],
    }


@pytest.mark.parametrize("sample", ["2 ** 70", "'\\ud800'", "{'a': [2 ** 70]}"])
def test_a_sample_that_only_the_standard_library_writes(
    sample: str, write_script: WriteScript
) -> None:
    """Integers of any length and half a surrogate pair: no reason not to start."""
    path = write_script(
        TYPES + f"@input_schema('data', StandardPythonParameterType({sample}))\n"
        "def run(data): ...\n"
    )
    service_input = definitions(documents(path), "3")["ServiceInput"]
    assert service_input["example"]["data"] == eval(sample)


@pytest.mark.keep
def test_a_script_that_swagger_2_cannot_describe(write_script: WriteScript) -> None:
    """Row 61: a list of several types exists in OpenAPI 3 only; the message says what there is."""
    path = write_script(
        TYPES + "@input_schema('data', StandardPythonParameterType([1, 'a']))\ndef run(data): ...\n"
    )
    found = documents(path)
    assert sorted(found.by_version) == ["3", "3.1"]
    for version in ("2", "2.0"):
        with pytest.raises(NoSuchDocument) as caught:
            found.get(version)
        assert str(caught.value) == (
            f"Swagger version [{version}] is not supported for the scoring script. "
            "Supported swagger versions: [3, 3.1]."
        )
    assert json.loads(found.get("3"))["openapi"] == "3.0.3"


@pytest.mark.keep
@pytest.mark.parametrize("version", ["4", "", "\uff12"])
def test_an_unknown_version(version: str, write_script: WriteScript) -> None:
    """Row 61."""
    with pytest.raises(NoSuchDocument) as caught:
        documents(write_script(PLAIN)).get(version)
    assert str(caught.value) == (
        f"Swagger version [{version}] is not valid. Supported versions: [2, 3, 3.1]."
    )


def test_before_the_script_is_loaded_there_is_none() -> None:
    """No version is named that cannot be had."""
    with pytest.raises(NoSuchDocument, match=r"Supported swagger versions: \[\]\.$"):
        Documents().get()


# --- the user's own files -------------------------------------------------------------------------


@pytest.mark.keep
@pytest.mark.parametrize(
    ("files", "version", "expected"),
    [
        ({"swagger.json": {"own": 2}}, "2", {"own": 2}),
        ({"swagger2.json": {"own": 2}}, "2.0", {"own": 2}),
        ({"swagger.json": {"first": 1}, "swagger2.json": {"second": 2}}, "2", {"first": 1}),
        ({"swagger3.1.json": {"own": 3.1}}, "3.1", {"own": 3.1}),
        ({"swagger.json": [1, "ü"]}, "2", [1, "ü"]),
        ({"swagger.json": {}, "swagger2.json": {"second": 2}}, "2", {"second": 2}),
    ],
)
def test_own_files_win(
    files: dict[str, Any], version: str, expected: Any, write_script: WriteScript, tmp_path: Path
) -> None:
    """Row 59: in the app root, any JSON value; an empty one is as good as none."""
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    found = documents(write_script(PLAIN))
    assert json.loads(found.get(version)) == expected


@pytest.mark.keep
def test_an_own_file_replaces_its_version_only(write_script: WriteScript, tmp_path: Path) -> None:
    """Row 59: the others are generated."""
    (tmp_path / "swagger3.json").write_text('{"own": 3}')
    found = documents(write_script(PLAIN))
    assert json.loads(found.get("3")) == {"own": 3}
    for each in ("2", "3.1"):
        assert definitions(found, each).items() >= DEFINITIONS.items()


@pytest.mark.keep
def test_own_files_are_looked_for_in_the_app_root(
    write_script: WriteScript, tmp_path: Path
) -> None:
    """Row 59: not next to the script."""
    script = write_script(PLAIN, "sub/score.py")
    (tmp_path / "sub" / "swagger.json").write_text('{"own": 2}')
    settings = Settings.from_environ(
        {"AML_APP_ROOT": str(tmp_path), "AZUREML_ENTRY_SCRIPT": str(script)}
    )
    run = entry_script.load(settings).run
    assert json.loads(openapi.build(run, settings).get())["swagger"] == "2.0"


@pytest.mark.keep
@pytest.mark.parametrize("name", ["swagger.json", "swagger3.1.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xff"])
def test_an_own_file_that_is_not_json_stops_the_start(
    name: str, content: bytes, write_script: WriteScript, tmp_path: Path
) -> None:
    """Row 59: the message names the file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        documents(write_script(PLAIN))
    assert str(caught.value).startswith(f"{tmp_path / name} is not JSON: ")
