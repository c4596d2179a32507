"""What the old documentation does, call for call, with only the import lines changed.

The samples are in azureml_samples/ as they were for the old packages.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from scoring_runtime.azureml.core.conda_dependencies import CondaDependencies
from scoring_runtime.azureml.core.environment import Environment
from scoring_runtime.azureml.core.inference_config import specification_of
from scoring_runtime.azureml.core.model import InferenceConfig, Model
from scoring_runtime.azureml.core.webservice import AciWebservice
from scoring_runtime.azureml.core.workspace import Workspace
from scoring_runtime.azureml.exceptions import WebserviceException
from scoring_runtime.packaging.deployment.files import Made
from scoring_runtime.release import VERSION
from tests.hosts.certificates import Authority
from tests.hosts.standalone import free_port
from tests.packaging.test_deployment import Files, validate

SAMPLES = Path(__file__).parents[1] / "azureml_samples"
Names = dict[str, Any]


def samples(file: str) -> dict[str, str]:
    """The Python of each heading of a file."""
    text = (SAMPLES / f"{file}.md").read_text(encoding="utf-8")
    found = re.findall(r"^## (.+?)\n\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(found) == text.count("\n## ") == text.count("```python")
    return dict(found)


PACKAGING, REGISTERING, INFERENCE, LOCAL, CLOUD = map(
    samples, ("packaging", "registering", "inference", "local", "cloud")
)


def ported(text: str) -> str:
    """The sample with ``scoring_runtime.`` in front of ``azureml`` in its import lines."""
    text = re.sub(r"^from azureml\b", "from scoring_runtime.azureml", text, flags=re.MULTILINE)
    return re.sub(
        r"^import azureml(\.\w+)*$", "from scoring_runtime import azureml", text, flags=re.MULTILINE
    )


def run(text: str, names: Names) -> Names:
    """Run a sample where the working folder is, with what it finds given."""
    exec(compile(ported(text), "<sample>", "exec"), names)
    return names


# --- what the samples find ------------------------------------------------------------------------

SCORE = """
import json, os, pickle

def init():
    global weights
    with open(os.path.join(os.getenv("AZUREML_MODEL_DIR"), "weights.bin"), "rb") as file:
        weights = pickle.load(file)

def run(raw_data):
    data = json.loads(raw_data)["data"]
    return [sum(w * x for w, x in zip(weights, row)) for row in data]
"""
TWO_MODELS = """
import os
from azureml.core.model import Model

def init():
    global found
    found = [
        os.path.isfile(os.path.join(os.getenv("AZUREML_MODEL_DIR"), name, version, "weights.bin"))
        for name, version in (("my_first_model", "1"), ("my_second_model", "2"))
    ]
    found.append(os.path.basename(Model.get_model_path("my_second_model")))

def run(raw_data):
    return found
"""
RAW = """
from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse

def init(): pass

@rawhttp
def run(request):
    return AMLResponse(len(request.files["image"].read()), 200, json_str=True)
"""
ECHO = """
import json

def init(): print("This is init")

def run(data):
    return f"test is {json.loads(data)['query']}"
"""
CONDA = """
name: project_environment
dependencies:
  - python=3.11
  - pip:
    - azureml-defaults
    - numpy
"""
REQUIREMENTS = """
--extra-index-url https://packages.example/simple
numpy>=1.26  # arrays
"""
FILES = {
    ".azureml/config.json": json.dumps(
        {"subscription_id": "s-1", "resource_group": "group", "workspace_name": "samples"}
    ),
    "score.py": SCORE,
    "x/y/score.py": SCORE,
    "two_models.py": TWO_MODELS,
    "raw.py": ported(RAW),
    "source_dir/echo_score.py": ECHO,
    "source_dir/score.py": SCORE,
    "whole/x/y/score.py": """import json, os

def init():
    global name
    with open(os.path.join(os.path.dirname(__file__), "..", "..", "extradata.json")) as file:
        name = json.load(file)["name"]

def run(raw_data):
    return "Hello " + name
""",
    "whole/extradata.json": '{"name": "Ada"}',
    "whole/env/myenv.yml": CONDA,
    "whole/dockerstep/customDockerStep.txt": 'RUN echo "this is a test"\n',
    "env/myenv.yml": CONDA,
    "myenv.yml": CONDA,
    "requirements.txt": REQUIREMENTS,
    "model.onnx": "not read",
    "digits/model.onnx": "not read",
    "kept/found.onnx": "not read",
    "picture.bin": "0123456789",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: scripts, conda files, models and the workspace's file."""
    folder = tmp_path / "project"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name in ("weights.bin", "sklearn_regression_model.pkl"):
        (folder / name).write_bytes(pickle.dumps([1, 10]))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def given(project: Path) -> Names:
    """``ws``, ``model`` and ``inference_config``, as the documentation assumes them."""
    ws = Workspace.from_config()
    model = Model.register(ws, "weights.bin", "regression")
    config = InferenceConfig(entry_script="score.py", environment=Environment("given-env"))
    return {"ws": ws, "model": model, "inference_config": config}


def all_titles(table: Mapping[str, object], found: Mapping[str, str]) -> list[str]:
    """The headings of a file, each of which has a row in the table."""
    assert set(table) == set(found)
    return sorted(found)


@pytest.mark.parametrize("file", [PACKAGING, REGISTERING, INFERENCE, LOCAL, CLOUD])
def test_only_import_lines_are_changed(file: dict[str, str]) -> None:
    """Each sample imports from azureml, and nothing else of it is another afterwards."""
    for text in file.values():
        lines = zip(text.splitlines(), ported(text).splitlines(), strict=True)
        changed = [old for old, new in lines if old != new]
        assert changed
        assert all(re.match(r"(from|import) azureml\b", line) for line in changed)


# --- workspaces and models ------------------------------------------------------------------------

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"


def _by_names(names: Names, out: str) -> None:
    ws = names["ws"]
    assert ws.folder == Path.cwd() / ".azureml" / "digits"
    assert ws.get_details() == {
        "id": str(ws.folder),
        "name": "digits",
        "location": "local",
        "subscriptionId": SUBSCRIPTION,
        "resourceGroup": "digits-group",
        "folder": str(ws.folder),
    }


def _by_file(names: Names, out: str) -> None:
    assert names["ws"].folder == Path.cwd() / ".azureml" / "samples"
    assert out.splitlines() == [f"SDK version: {VERSION}", "samples", "group", "local", "s-1"]


def _with_sign_in(names: Names, out: str) -> None:
    assert out == "Found workspace digits at location local\n"


def _file(names: Names, out: str) -> None:
    assert out == "answers_onnx\tanswers_onnx:1\t1\n"
    place = Path.cwd() / ".azureml/samples/answers_onnx/1/model.onnx"
    assert place.read_text(encoding="utf-8") == "not read"


def _with_tags(names: Names, out: str) -> None:
    model = names["model"]
    assert (model.name, model.version, model.tags) == ("digits_onnx", 1, {"onnx": "demo"})
    assert model.description == "Digits of the model zoo"
    assert model.path.name == "model.onnx"


def _folder(names: Names, out: str) -> None:
    model = names["model"]
    assert [path.name for path in model.path.iterdir()] == ["model.onnx"]
    assert names["ws"].models["both"].tags == {"area": "digits"}


def _without_script(names: Names, out: str) -> None:
    model = names["model"]
    assert out == "Name: ridge\nVersion: 1\n"
    assert (model.model_framework, model.model_framework_version) == ("ScikitLearn", "0.19.1")


def _by_framework(names: Names, out: str) -> None:
    kept = names["ws"].models
    assert {name: model.model_framework for name, model in kept.items()} == {
        "digits": "Onnx",
        "flowers": "TensorFlow",
    }


def _found(names: Names, out: str) -> None:
    assert [names[each].version for each in ("first", "latest", "same")] == [1, 2, 2]
    assert [model.id for model in names["listed"]] == ["found:2"]
    assert Path(names["model_path"]).read_text(encoding="utf-8") == "not read"
    assert names["in_workspace"].endswith(os.path.join("found", "2", "found.onnx"))
    assert [model.id for model in Model.list(names["ws"])] == ["found:2"]


REGISTERED: dict[str, Callable[[Names, str], None]] = {
    "A workspace by its names": _by_names,
    "A workspace by its file": _by_file,
    "A workspace with a sign-in": _with_sign_in,
    "A model file": _file,
    "A model file in a folder, with tags": _with_tags,
    "A folder of files": _folder,
    "A model that needs no script": _without_script,
    "Models that need no script, by framework": _by_framework,
    "Finding, downloading and deleting": _found,
}


@pytest.mark.parametrize("title", all_titles(REGISTERED, REGISTERING))
def test_registering(title: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Workspaces and models are there as the sample says."""
    names = run(REGISTERING[title], {})
    REGISTERED[title](names, capsys.readouterr().out)


# --- inference configurations ---------------------------------------------------------------------


class Packaged(NamedTuple):
    """What an inference configuration is packaged as."""

    script: str
    requirements: tuple[str, ...]
    source: str = ""
    python: str = ""
    options: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    base_image: str = ""
    left_out: str = ""


SDK = "azureml-defaults is left out: this runtime takes the place of that SDK."
CONFIGURED = {
    "A source folder and an empty environment": Packaged(
        "source_dir/echo_score.py", (), source="source_dir", left_out=SDK
    ),
    "Packages one by one": Packaged(
        "source_dir/score.py", ("nltk", "numpy", "onnxruntime"), source="source_dir", left_out=SDK
    ),
    "A registered environment": Packaged("x/y/score.py", ("numpy",), left_out=SDK),
    "A conda file without an environment": Packaged(
        "x/y/score.py", ("numpy",), python="3.11", left_out=SDK
    ),
    "A conda file and Docker steps below a source folder": Packaged(
        "whole/x/y/score.py",
        ("numpy",),
        source="whole",
        python="3.11",
        left_out=f"{SDK} The Docker steps in dockerstep/customDockerStep.txt were left out: add "
        "them to the Dockerfile.",
    ),
    "A conda file of an environment": Packaged("score.py", ("numpy",), python="3.11", left_out=SDK),
    "A conda file that is written first": Packaged("score.py", ("scikit-learn",), left_out=SDK),
    "A requirements file": Packaged(
        "score.py",
        ("numpy>=1.26",),
        options=("--extra-index-url https://packages.example/simple",),
        variables=(("SCORING_NAN", "null"),),
    ),
    "Pip packages of an environment": Packaged(
        "score.py",
        ("inference-schema[numpy-support]", "joblib", "numpy", "scikit-learn"),
        left_out=SDK,
    ),
    "A base image": Packaged("score.py", (), base_image="registry.example/images/python:3.11"),
    "An environment that is registered, changed and saved": Packaged(
        "score.py", ("numpy==1.26.4", "pillow"), left_out=SDK
    ),
    "An environment on this machine": Packaged("score.py", ()),
}


@pytest.fixture
def workspace(project: Path) -> Workspace:
    """With the environments that samples get from it."""
    ws = Workspace.from_config()
    known = Environment("registered-env")
    known.python.conda_dependencies.add_conda_package("numpy")
    known.register(ws)
    nothing = Environment("empty-env")
    nothing.python.conda_dependencies = CondaDependencies.create(pip_packages=[])
    nothing.register(ws)
    return ws


@pytest.mark.parametrize("title", all_titles(CONFIGURED, INFERENCE))
def test_inference_configurations(title: str, project: Path, workspace: Workspace) -> None:
    """What is packaged is what the sample configured."""
    config = run(INFERENCE[title], {"ws": workspace})["inference_config"]
    wanted = specification_of([], config, "standalone")
    assert wanted.entry_script is not None
    made = wanted.environment
    assert CONFIGURED[title] == Packaged(
        os.path.relpath(wanted.entry_script, project),
        made.requirements,
        os.path.relpath(wanted.source_dir, project) if wanted.source_dir else "",
        made.python,
        made.options,
        tuple(made.variables.items()),
        made.base_image,
        " ".join(made.notes),
    )


def test_what_the_samples_leave_behind(
    project: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """A registered environment is listed and saved; one that was built here has a Python."""
    run(INFERENCE["An environment that is registered, changed and saved"], {"ws": workspace})
    assert capsys.readouterr().out.splitlines() == [
        "Name empty-env",
        "Name kept-env",
        "Name registered-env",
    ]
    assert sorted(path.name for path in Path("destination").iterdir()) == [
        "azureml_environment.json",
        "conda_dependencies.yml",
    ]
    env = workspace.environments["empty-env"]
    env.python.conda_dependencies.add_pip_package("redis")
    built = env.build_local(workspace)
    assert (built / "pyvenv.cfg").is_file()
    assert len(list(built.glob("[Ll]ib/**/redis-7.0.0.dist-info"))) == 1


# --- packages -------------------------------------------------------------------------------------

DOCKER = """#!/bin/sh
echo "$@" >> "$DOCKER_RECORD/calls"
for each in "$@"; do
  [ -f "$each/Dockerfile" ] && cp -R "$each" "$DOCKER_RECORD/context"
done
echo "docker was called"
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a program called docker notes its calls and the context it builds."""
    record, programs = tmp_path / "record", tmp_path / "programs"
    record.mkdir()
    programs.mkdir()
    program = programs / "docker"
    program.write_text(DOCKER, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("DOCKER_RECORD", str(record))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return record


@pytest.fixture(autouse=True)
def packages_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds the packages that are named here, and asks no index."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name, version in PACKAGES.items():
        write_wheel(folder, name, version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


PACKAGES = {
    "azure_functions": "1.24.0",
    "azure_servicebus": "7.14.0",
    "azure_identity": "1.25.0",
    "aiohttp": "3.13.0",
    "httptools": "0.7.0",
    "inference_schema": "1.8",
    "joblib": "1.5.0",
    "numpy": "2.3.0",
    "orjson": "3.11.0",
    "prometheus_client": "0.22.0",
    "redis": "7.0.0",
    "scikit_learn": "1.7.0",
    "azure_monitor_opentelemetry_exporter": "1.0.0b49",
    "azure_storage_blob": "12.27.0",
    "pyjwt": "2.14.0",
    "uvicorn": "0.38.0",
    "uvloop": "0.22.0",
    "watchfiles": "1.1.0",
    "werkzeug": "3.1.0",
}


def write_wheel(folder: Path, name: str, version: str) -> None:
    """The smallest wheel that pip resolves."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def settings_of(context: Path) -> dict[str, str]:
    """The settings of the scoring runtime in a context."""
    said = json.loads((context / "scoring-package.json").read_text(encoding="utf-8"))["settings"]
    return {
        name: value for name, value in said.items() if not name.startswith(("AML_", "AZUREML_"))
    }


ENVIRONMENTS = {
    "The environment of a Function App": ("scikit-learn",),
    "The environment of a Function App with Redis": ("scikit-learn", "redis"),
}


@pytest.mark.parametrize("title", ENVIRONMENTS)
def test_environments_of_function_apps(title: str, project: Path) -> None:
    """Packages of conda and pip come together; Docker is switched on for nothing."""
    config = run(PACKAGING[title], {})["inference_config"]
    made = specification_of([], config, "functions").environment
    assert made.requirements == ENVIRONMENTS[title]


HTTP = {"SCORING_TRIGGERS": "http"}
BLOB = {
    "SCORING_TRIGGERS": "blob",
    "BLOB_INPUT_PATH": "input/{blobname}.json",
    "BLOB_OUTPUT_PATH": "output/{blobname}_out.json",
}
IMAGES = {
    "A blob trigger": ("functions", BLOB),
    "An HTTP trigger": ("functions", HTTP),
    "An image": ("standalone", HTTP),
    "An image with a name": ("standalone", HTTP),
    "A package from a conda file": ("standalone", HTTP),
}


@pytest.mark.parametrize("title", sorted(IMAGES))
def test_images(title: str, given: Names, docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The program docker builds the context for the trigger, and the image's name is printed."""
    target, settings = IMAGES[title]
    names = run(PACKAGING[title], given)
    made = names.get("made") or names["package"]
    calls = (docker / "calls").read_text(encoding="utf-8")
    context = docker / "context"
    document = json.loads((context / "scoring-package.json").read_text(encoding="utf-8"))
    assert (document["target"], document["models"]) == (target, ["regression:1"])
    assert settings_of(context) == settings
    assert (context / "source" / "score.py").read_text(encoding="utf-8") == SCORE
    assert (context / "azureml-models/regression/1/weights.bin").is_file()
    assert made.state == "Succeeded"
    assert f"{made.location}" in calls
    assert re.fullmatch(r"digits:1\.0" if "name" in title else r"package:\d{20}", made.location)
    assert "docker was called\n" in capsys.readouterr().out


def test_a_function_for_each_trigger(given: Names) -> None:
    """Each context has its trigger and the options of that."""
    names = run(PACKAGING["A function for each trigger"], given)
    assert [settings_of(Path(names[each].location)) for each in ("http", "blob", "queue")] == [
        {"SCORING_TRIGGERS": "http", "SCORING_AUTH_LEVEL": "anonymous"},
        BLOB,
        {
            "SCORING_TRIGGERS": "service_bus",
            "SERVICEBUS_INPUT_QUEUE": "requests",
            "SERVICEBUS_OUTPUT_QUEUE": "replies",
        },
    ]


def test_the_files_of_an_image(given: Names, capsys: pytest.CaptureFixture[str]) -> None:
    """They are saved where the sample says, and no registry asks for a password."""
    names = run(PACKAGING["The files of an image"], given)
    assert {"Dockerfile", "requirements.txt", "source"} <= {
        path.name for path in Path("imagefiles").iterdir()
    }
    assert (Path(names["package"].location) / "Dockerfile").is_file()
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "Package creation Succeeded",
        "Address: ",
        "Username: ",
        "Password: ",
    ]


def test_every_packaging_sample_is_run() -> None:
    """None of the headings is left out above."""
    files = {"A function for each trigger", "The files of an image"}
    assert {*ENVIRONMENTS, *IMAGES, *files} == set(PACKAGING)


# --- local services -------------------------------------------------------------------------------

SAMPLE = b'{"data": [[1, 2], [3, 4]]}'
SCORED = [21, 43]
ANSWERS: dict[str, Any] = {
    "Deployed, waited for and asked": SCORED,
    "Its state, port and logs": SCORED,
    "Without a port": SCORED,
    "Deployed again with another script": SCORED,
    "Reloaded after its script changed, and updated": "hello from updated score.py",
    "A whole source folder": "Hello Ada",
    "Two models": [True, True, "weights.bin"],
    "Found by its name, and asked with its keys": SCORED,
    "Asked after a sign-in": SCORED,
    "A raw request with a file": 10,
    "A model that needs no script": pytest.approx(SCORED),
}


@pytest.fixture
def served(given: Names) -> Iterator[Names]:
    """What the local samples find; their services are deleted afterwards."""
    ws = given["ws"]
    Environment("tutorial-env").register(ws)
    for name, versions in (("my_first_model", 1), ("my_second_model", 2)):
        for _ in range(versions):
            Model.register(ws, "weights.bin", name)
    yield given | {"sample": SAMPLE}
    for service in ws.webservices.values():
        service.delete()


def local(title: str, names: Names) -> Names:
    """Run a sample on a port that is free."""
    text = LOCAL[title].replace("6789", str(free_port()))
    return run(text, names)


@pytest.mark.parametrize("title", all_titles(ANSWERS, LOCAL))
def test_local_services(title: str, served: Names, capsys: pytest.CaptureFixture[str]) -> None:
    """The service answers what its script returns."""
    if title == "A model that needs no script":
        write_ridge(Path("ridge.pkl"))
    names = local(title, served)
    assert names["answer"] == ANSWERS[title]
    if title == "Its state, port and logs":
        port = names["deployment_config"].port
        assert names["service"].scoring_uri == f"http://localhost:{port}/score"
        out = capsys.readouterr().out
        assert "\nHealthy\n" in f"\n{out}"
        assert f"Local service port: {port}\n" in out
        assert f"http://localhost:{port}/swagger.json\n" in out
    if title == "Reloaded after its script changed, and updated":
        assert (names["first"], names["after_update"]) == (SCORED, ANSWERS[title])
        assert served["ws"].webservices == {}


def write_ridge(path: Path) -> None:
    """A scikit-learn model of x + 10 y."""
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit([[0, 0], [1, 0], [0, 1]], [0, 1, 10])
    path.write_bytes(pickle.dumps(model))


# --- services in the cloud ------------------------------------------------------------------------


def _instances(names: Names, out: str) -> None:
    assert out.endswith("\nPackaged\n") and "az container create" in out
    assert "nothing was sent to Azure" in out
    group = files_of(names["service"])["container-group.yaml"]
    container = group["properties"]["containers"][0]["properties"]
    assert container["resources"]["requests"] == {"cpu": 1, "memoryInGB": 1}


def _tutorial(names: Names, out: str) -> None:
    assert out.endswith("\nNone\n")
    group = files_of(names["service"])["container-group.yaml"]
    about = {"data": "MNIST", "method": "sklearn", "description": "Predict MNIST with sklearn"}
    assert group["tags"] == about


def _keyed(names: Names, out: str) -> None:
    service = names["service"]
    assert service.scoring_uri == "http://regression-1.westeurope.azurecontainer.io:5001/score"
    assert out.splitlines()[-1] == names["primary"]
    assert names["changed"][1] == names["secondary"]
    assert len({*names["changed"], names["primary"]}) == 3
    assert service.auth_enabled and names["primary"] not in json.dumps(service.serialize())


def _secured(names: Names, out: str) -> None:
    assert names["service"].scoring_uri == "https://www.contoso.com:5001/score"
    assert files_of(names["service"])["container-group.yaml"]["properties"]["volumes"]


def _cluster(names: Names, out: str) -> None:
    assert "az aks get-credentials" in out and "--name myaks" in out
    assert "\nPackaged\nNothing was deployed from here." in out
    assert "kubectl logs" in out
    assert len(names["service"].get_keys()) == 2


def _scales(names: Names, out: str) -> None:
    spec = files_of(names["service"])["autoscaler.yaml"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 4)
    assert spec["metrics"][0]["resource"]["target"]["averageUtilization"] == 30


def _tokens(names: Names, out: str) -> None:
    service = names["service"]
    assert names["enabled"] is True and not service.auth_enabled
    assert "pyjwt" in (service.files.parent / "package/requirements.txt").read_text()
    with pytest.raises(WebserviceException, match="az account get-access-token"):
        service.get_token()


def _collected(names: Names, out: str) -> None:
    [settings] = files_of(names["service"])["kustomization.yaml"]["configMapGenerator"]
    assert "AML_MODEL_DC_STORAGE_ENABLED=true" in settings["literals"]
    assert "AML_APP_INSIGHTS_ENABLED=true" in settings["literals"]


def _later(names: Names, out: str) -> None:
    service = names["service"]
    assert isinstance(service, AciWebservice)
    assert service.deployment_configuration.of("enable_app_insights") is True
    text = (service.files.parent / "package/requirements.txt").read_text()
    assert "azure-monitor-opentelemetry-exporter" in text


def _updated(names: Names, out: str) -> None:
    assert out == "Packaged\n"
    assert names["listed"] == ["updated"]
    assert names["service"].state == "Deleted" and not names["service"].files.exists()
    assert names["ws"].webservices == {}


def _profiled(names: Names, out: str) -> None:
    details = names["details"]
    assert out == "Succeeded\n"
    assert details["state"] == names["profile"].state == "Succeeded"
    assert details["successRate"] == 1 and details["totalQueries"] >= 20
    assert 0.1 <= details["recommendedCpu"] <= 1
    assert details["maxUtilizedMemoryInGB"] < details["recommendedMemoryInGB"] < 1
    latencies = [details[f"latencyPercentile{each}InMs"] for each in (50, 90, 95, 99, 999)]
    assert latencies == sorted(latencies) and latencies[0] > 0


CLOUDS: dict[str, Callable[[Names, str], None]] = {
    "Container Instances": _instances,
    "Container Instances of the tutorial": _tutorial,
    "Container Instances with keys and a name": _keyed,
    "Container Instances with TLS": _secured,
    "Kubernetes": _cluster,
    "Kubernetes that scales": _scales,
    "Kubernetes with tokens": _tokens,
    "Kubernetes with its data collected": _collected,
    "Application Insights switched on later": _later,
    "A service found, updated and deleted": _updated,
    "A model profiled": _profiled,
}


def files_of(service: Any) -> dict[str, Any]:
    """The YAML of a service by file, each of them valid."""
    found = Files(Made(service.files, tuple(each.name for each in service.files.iterdir()), ()))
    validate(found)
    return found.documents


@pytest.mark.parametrize("title", all_titles(CLOUDS, CLOUD))
def test_services_in_the_cloud(
    title: str, given: Names, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each makes a package with the files that deploy it."""
    if "TLS" in title:
        cert, key = Authority(tmp_path / "tls").issue("contoso")
        Path("cert.pem").write_bytes(cert.read_bytes())
        Path("key.pem").write_bytes(key.read_bytes())
    rows = pd.DataFrame({"sample_request": [SAMPLE.decode(), SAMPLE.decode()]})
    capsys.readouterr()
    names = run(CLOUD[title], given | {"input_dataset": rows})
    CLOUDS[title](names, capsys.readouterr().out)
    if "service" in names and names["service"].state != "Deleted":
        files_of(names["service"])
