"""The old names: where they are, what they refuse, and what the packager is handed."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime import errors
from scoring_runtime.azureml import contrib, core, exceptions
from scoring_runtime.azureml.contrib import functions
from scoring_runtime.azureml.core.conda_dependencies import CondaDependencies
from scoring_runtime.azureml.core.container_registry import ContainerRegistry
from scoring_runtime.azureml.core.environment import DEFAULT_CPU_IMAGE, Environment
from scoring_runtime.azureml.core.inference_config import specification_of
from scoring_runtime.azureml.core.model import InferenceConfig, Model, ModelPackage
from scoring_runtime.azureml.core.model_package import create_package
from scoring_runtime.azureml.core.workspace import Workspace
from scoring_runtime.azureml.exceptions import (
    AzureMLException,
    ComputeTargetException,
    ModelNotFoundException,
    UserErrorException,
    WebserviceException,
    WorkspaceException,
)
from scoring_runtime.packaging.specification import Specification
from scoring_runtime.release import VERSION
from scoring_runtime.script import aml_http

SCRIPT = "def init(): pass\n\ndef run(data): return data\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a script and a model's file."""
    (tmp_path / "score.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "model.onnx").write_bytes(b"not read")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ws(folder: Path) -> Workspace:
    return Workspace(workspace_name="work")


@pytest.fixture
def config(folder: Path) -> InferenceConfig:
    """Of which pip has nothing to look for but what the runtime needs."""
    return InferenceConfig(entry_script="score.py", environment=Environment("env"))


def refused(kind: type[Exception], text: str) -> Any:
    """Whole sentences are expected, not parts of them."""
    return pytest.raises(kind, match=f"^{re.escape(text)}$")


# --- where they are -------------------------------------------------------------------------------

OLD_NAMES = {
    "core": ["ContainerRegistry", "Environment", "Model", "VERSION", "Webservice", "Workspace"],
    "core.authentication": [
        "AbstractAuthentication",
        "AzureCliAuthentication",
        "InteractiveLoginAuthentication",
        "MsiAuthentication",
        "ServicePrincipalAuthentication",
    ],
    "core.conda_dependencies": ["CondaDependencies"],
    "core.container_registry": ["ContainerRegistry"],
    "core.environment": ["Environment"],
    "core.model": ["InferenceConfig", "Model", "ModelPackage"],
    "core.resource_configuration": ["ResourceConfiguration"],
    "core.webservice": ["LocalWebservice", "Webservice"],
    "core.workspace": ["Workspace"],
    "contrib.functions": [
        "BLOB_TRIGGER",
        "HTTP_TRIGGER",
        "SERVICE_BUS_QUEUE_TRIGGER",
        "package",
        "package_blob",
        "package_http",
        "package_service_bus_queue",
    ],
    "contrib.services.aml_request": ["AMLRequest", "rawhttp"],
    "contrib.services.aml_response": ["AMLResponse"],
    "exceptions": ["AzureMLException", "UserErrorException", "WebserviceException"],
}


@pytest.mark.parametrize("module", OLD_NAMES)
def test_each_old_name_is_where_it_was(module: str) -> None:
    """The prefix is all that changes in an import line."""
    found = import_module(f"scoring_runtime.azureml.{module}")
    assert [name for name in OLD_NAMES[module] if not hasattr(found, name)] == []


def test_packages_are_reached_as_attributes_too() -> None:
    """``from scoring_runtime import azureml`` stands for ``import azureml.core``."""
    azureml = import_module("scoring_runtime.azureml")
    assert azureml.core.VERSION == azureml.core.__version__ == VERSION
    assert azureml.core.model.Model is core.Model is Model
    assert azureml.contrib.functions is contrib.functions is functions
    assert azureml.exceptions is exceptions


@pytest.mark.parametrize("module", ["azureml", "azureml.core", "azureml.contrib"])
def test_a_name_that_is_not_there_is_an_attribute_error(module: str) -> None:
    """So that ``from … import`` says it cannot import it."""
    found = import_module(f"scoring_runtime.{module}")
    with refused(AttributeError, f"module 'scoring_runtime.{module}' has no attribute 'Nope'"):
        _ = found.Nope


def test_scripts_get_the_runtimes_own_request_and_response() -> None:
    """``run()`` is handed that class, whatever it imported."""
    services = "scoring_runtime.azureml.contrib.services"
    assert import_module(f"{services}.aml_request").AMLRequest is aml_http.AMLRequest
    assert import_module(f"{services}.aml_request").rawhttp is aml_http.rawhttp
    assert import_module(f"{services}.aml_response").AMLResponse is aml_http.AMLResponse


def test_importing_them_loads_nothing_heavy() -> None:
    """Neither YAML nor a model library, nor the packager's own modules but its plain data."""
    code = (
        "import sys, scoring_runtime.azureml.contrib.functions, scoring_runtime.azureml.core.model,"
        "scoring_runtime.azureml.core.workspace; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert loaded & {"yaml", "numpy", "pandas", "pip", "werkzeug", "asyncio"} == set()
    packager = {name for name in loaded if name.startswith("scoring_runtime.packaging.")}
    assert packager == {"scoring_runtime.packaging.specification"}


# As the deployment programs of public repositories have them.
LINES = [
    "from azureml.core import Workspace, Experiment, Datastore, Dataset, Run, Webservice, Image",
    "from azureml.core.compute import ComputeTarget, AksCompute, AmlCompute, ComputeInstance",
    "from azureml.core.compute_target import ComputeTargetException",
    "from azureml.core.datastore import Datastore",
    "from azureml.core.experiment import Experiment",
    "from azureml.core.image import ContainerImage, Image",
    "from azureml.core.keyvault import Keyvault",
    "from azureml.core.run import Run",
    "from azureml.core.runconfig import CondaDependencies, RunConfiguration",
    "from azureml.core.script_run_config import ScriptRunConfig",
    "from azureml.core.webservice import AciWebservice, AksEndpoint, AksWebservice, Webservice",
]


@pytest.mark.parametrize("line", LINES)
def test_the_import_lines_of_deployment_programs_work(line: str) -> None:
    """Names without a meaning here too, so that the others on the line can be imported."""
    names: dict[str, Any] = {}
    exec(line.replace("from azureml", "from scoring_runtime.azureml"), names)
    assert names.get("CondaDependencies", CondaDependencies) is CondaDependencies
    assert names.get("ComputeTargetException", ComputeTargetException) is ComputeTargetException


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("compute.ComputeTarget", ComputeTargetException, "There are no clusters here: a model is"),
        ("compute.AmlCompute.provisioning_configuration", ComputeTargetException, "mlflow_track"),
        ("Experiment", UserErrorException, "Nothing is trained here: run the training program its"),
        ("run.Run.get_context", UserErrorException, "Nothing is trained here: "),
        ("Dataset.Tabular.from_delimited_files", UserErrorException, "pandas.read_csv"),
    ],
)  # fmt: skip
def test_using_what_means_nothing_here_says_what_takes_its_place(
    name: str, kind: type[Exception], says: str, ws: Workspace
) -> None:
    """A cluster that is not there is what programs catch to make it."""
    found: Any = core
    with pytest.raises(kind, match=re.escape(says)):
        for each in name.split("."):
            found = getattr(found, each)
        found(ws, "x")


def test_a_workspace_without_a_cloud(ws: Workspace, folder: Path) -> None:
    """No clusters and no experiments; MLflow has a database; the datastore is a folder."""
    assert (ws.compute_targets, ws.experiments) == ({}, {})
    place = ws.get_mlflow_tracking_uri().removeprefix("sqlite:///")
    with closing(sqlite3.connect(place)) as database:
        assert database.execute("select 1").fetchone() == (1,)
    store = ws.get_default_datastore()
    assert [*ws.datastores] == [store.name] == ["workspaceblobstore"]
    (folder / "data/in").mkdir(parents=True)
    (folder / "data/in/rows.csv").write_text("1\n")
    for _ in range(2):
        store.upload(src_dir="data", target_path="kept", show_progress=True)
        (folder / "data/in/rows.csv").write_text("2\n")
    store.upload_files(["score.py"], target_path="scripts")
    assert store.download("back", prefix="kept") == 1
    assert (folder / "back/kept/in/rows.csv").read_text() == "1\n"
    store.upload_files(["data/in/rows.csv"], "data", "kept", overwrite=True)
    assert store.download("back") == 2
    assert store.download("back", overwrite=True) == 2
    assert (folder / "back/kept/in/rows.csv").read_text() == "2\n"
    text = "There is no datastore 'other' here; the only one is 'workspaceblobstore'."
    with refused(UserErrorException, text):
        core.Datastore(ws, "other")


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("AzureML-sklearn-0.24-ubuntu18.04-py37-cpu", ["scikit-learn", "joblib", "pandas"]),
        ("AzureML-Tutorial", ["scikit-learn", "joblib", "pandas"]),
        ("AzureML-minimal-ubuntu18.04-py37-cpu-inference", []),
        ("AzureML-onnxruntime-1.6-ubuntu18.04-py37-cpu-inference", ["onnxruntime", "numpy"]),
        ("AzureML-xgboost-0.9-ubuntu18.04-py37-cpu", ["xgboost", "scikit-learn", "pandas"]),
        ("AzureML-pytorch-1.6-ubuntu18.04-py37-cpu-inference", ["torch", "numpy"]),
    ],
)  # fmt: skip
def test_a_curated_environment_has_what_its_name_says(
    name: str, packages: list[str], ws: Workspace
) -> None:
    """In the versions of today; one of that name in the workspace is another."""
    found = Environment.get(workspace=ws, name=name)
    assert [*found.python.conda_dependencies.pip_packages] == ["azureml-defaults", *packages]
    assert found.packages("standalone").requirements == tuple(packages)
    own = Environment(name)
    own.register(ws)
    assert Environment.get(ws, name).version == "1"


def test_exceptions_are_the_runtimes_too() -> None:
    """Who catches this package's errors catches those of the old names."""
    assert issubclass(AzureMLException, errors.ScoringRuntimeError)
    assert issubclass(WebserviceException, errors.PackagingError)
    assert issubclass(ModelNotFoundException, errors.ModelNotFound)
    inner = ValueError("why")
    error = UserErrorException("what", inner, target="unused")
    assert (error.message, str(error), error.inner_exception) == ("what", "what", inner)


# --- azureml.contrib.functions --------------------------------------------------------------------


def test_a_trigger_that_does_not_exist_is_refused(ws: Workspace, config: InferenceConfig) -> None:
    """With the sentence of the old package."""
    text = "Invalid trigger 'timer', valid options are [blob,service_bus_queue,http]"
    with refused(WebserviceException, text):
        functions.package(ws, [], config, functions_enabled=True, trigger="timer")


@pytest.mark.parametrize(
    ("trigger", "option", "valid"),
    [
        ("http", "input_path", "auth_level"),
        ("blob", "auth_level", "input_path,output_path"),
        ("service_bus_queue", "input_queue", "input_queue_name,output_queue_name"),
    ],
)
def test_an_option_of_another_trigger_is_refused(
    trigger: str, option: str, valid: str, ws: Workspace, config: InferenceConfig
) -> None:
    """The message says which there are."""
    options: dict[str, Any] = {option: "x"}
    text = f"Invalid option '{option}' for trigger '{trigger}', valid options are [{valid}]"
    with refused(WebserviceException, text):
        functions.package(ws, [], config, functions_enabled=True, trigger=trigger, **options)


@pytest.mark.parametrize("name", ["package", "package_http"])
@pytest.mark.parametrize("has_config", [True, False], ids=["no-environment", "no-config"])
def test_packaging_needs_an_environment(
    name: str, has_config: bool, ws: Workspace, folder: Path
) -> None:
    """With the sentence of the old package."""
    config = InferenceConfig(entry_script="score.py") if has_config else None
    text = "Error, model packaging requires an InferenceConfig containing an Environment object."
    with refused(WebserviceException, text):
        getattr(functions, name)(ws, [], config)


def packaged(package: ModelPackage) -> dict[str, Any]:
    """The document of the context that was made."""
    package.wait_for_creation()
    assert package.location is not None
    text = (Path(package.location) / "scoring-package.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


@pytest.fixture
def no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip cannot ask anybody, so what it would find stays open."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")


@pytest.mark.usefixtures("no_index")
def test_without_functions_the_package_is_standalone(
    ws: Workspace, config: InferenceConfig
) -> None:
    """Neither the trigger nor its options count then, not even wrong ones."""
    made = functions.package(
        ws, [], config, generate_dockerfile=True, trigger="timer", input_path="x", nonsense=1
    )
    document = packaged(made)
    assert (document["target"], document["triggers"]) == ("standalone", ["http"])


@pytest.mark.usefixtures("no_index")
def test_options_that_are_none_are_left_out(ws: Workspace, config: InferenceConfig) -> None:
    """The defaults of the runtime hold: nothing is set."""
    document = packaged(functions.package_blob(ws, [], config, generate_dockerfile=True))
    assert (document["target"], document["triggers"]) == ("functions", ["blob"])
    assert "BLOB_INPUT_PATH" not in document["settings"]


# --- what is packaged -----------------------------------------------------------------------------


def test_paths_are_those_of_the_working_folder_at_the_call(
    ws: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is packaged in the background does not move when the program changes its folder."""
    (folder / "code").mkdir()
    (folder / "code" / "score.py").write_text(SCRIPT, encoding="utf-8")
    config = InferenceConfig("score.py", source_directory="code", environment=Environment("e"))
    wanted = specification_of([], config, "functions", ("blob",))
    monkeypatch.chdir("/")
    assert wanted.entry_script == folder / "code" / "score.py"
    assert (wanted.source_dir, wanted.triggers) == (folder / "code", ("blob",))


def test_models_are_those_of_the_registry(ws: Workspace, config: InferenceConfig) -> None:
    """By the folder of their version, which never changes."""
    model = Model.register(ws, "model.onnx", "net")
    (made,) = specification_of([Model(ws, "net")], config, "standalone").models
    assert (made.name, made.version, made.registered, made.kind) == ("net", 1, True, "onnx")
    assert made.path == ws.folder / "net" / "1"
    assert model.path == made.path / "model.onnx"


def test_what_is_no_model_is_refused(ws: Workspace, config: InferenceConfig) -> None:
    """A path is not registered in passing."""
    text = (
        "'model.onnx' is no Model: register the file with Model.register, or take a registered one "
        "with Model(workspace, name)."
    )
    with refused(WebserviceException, text):
        Model.package(ws, ["model.onnx"], config)


def test_a_script_that_is_not_there_is_refused_at_once(ws: Workspace, folder: Path) -> None:
    """Before anything is made; so is a source folder that is none."""
    whole = InferenceConfig("score.py", source_directory="score.py", environment=Environment("e"))
    text = f"The source directory {folder / 'score.py'} is not there, or no folder."
    with refused(WebserviceException, text):
        Model.package(ws, [], whole)
    config = InferenceConfig("absent.py", environment=Environment("env"))
    text = f"The entry script {folder / 'absent.py'} is not there, or no file."
    with refused(WebserviceException, text):
        Model.package(ws, [], config)
    assert not ws.folder.exists()


def test_another_runtime_is_refused() -> None:
    """There is one."""
    text = "There is no runtime 'spark-py' here; the only one is 'python'."
    with refused(WebserviceException, text):
        InferenceConfig("score.py", runtime="spark-py")


def test_an_environment_comes_alone() -> None:
    """What it would silently replace is refused."""
    text = (
        "An InferenceConfig has an environment or conda_file and base_image, not both: put into "
        "the Environment what belongs to it."
    )
    with refused(WebserviceException, text):
        InferenceConfig("s.py", conda_file="c.yml", base_image="i", environment=Environment("e"))


def test_what_cannot_be_taken_of_a_configuration_is_said(folder: Path) -> None:
    """In the notes, which the package's log shows."""
    config = InferenceConfig(
        "score.py",
        enable_gpu=True,
        cuda_version="10.0",
        base_image="python:3.12",
        extra_docker_file_steps="steps.txt",
    )
    made = specification_of([], config, "functions").environment
    assert made.base_image == ""
    assert made.notes == (
        "The base image python:3.12 was not taken: it does not hold the Functions host.",
        "The Docker steps in steps.txt were left out: add them to the Dockerfile.",
        "Nothing for a GPU was added: name a base image that has it.",
    )
    assert specification_of([], config, "standalone").environment.base_image == "python:3.12"


def test_the_images_of_the_retired_service_are_not_taken(folder: Path) -> None:
    runconfig = import_module("scoring_runtime.azureml.core.runconfig")
    for address, image in (
        ("", DEFAULT_CPU_IMAGE), ("", runconfig.DEFAULT_GPU_IMAGE),
        ("viennaglobal.azurecr.io", "azureml/azureml_4f5c"),
    ):  # fmt: skip
        environment = Environment("e")
        environment.docker.base_image = image
        environment.docker.base_image_registry.address = address
        made = specification_of(
            [], InferenceConfig("score.py", environment=environment), "standalone"
        )
        assert made.environment.base_image == ""
        name = f"{address}/{image}".lstrip("/")
        note = f"The base image {name} of the retired service is not used."
        assert note in made.environment.notes


@pytest.mark.usefixtures("no_index")
@pytest.mark.parametrize("place", [None, "models"], ids=["hidden", "visible"])
def test_a_workspace_in_the_source_folder_is_not_packaged_with_it(
    place: str | None, folder: Path
) -> None:
    """Neither its registry, if that is hidden, nor environments and earlier packages."""
    ws = Workspace(workspace_name="work", folder=place)
    Environment("kept").register(ws)
    config = InferenceConfig("score.py", source_directory=".", environment=Environment("env"))
    for _ in range(2):
        made = Model.package(
            ws, [Model.register(ws, "model.onnx", "net")], config, generate_dockerfile=True
        )
        made.wait_for_creation()
    assert made.location is not None
    source = Path(made.location) / "source"
    found = {path.relative_to(source).parts[0] for path in source.rglob("*") if path.is_file()}
    assert found == {"score.py", "model.onnx", *([place] if place else [])}
    assert not list(source.rglob("kept")) + list(source.rglob("log.txt"))


# --- a package ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_index")
def test_a_package_of_files(
    ws: Workspace, config: InferenceConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made in the workspace, its log printed, saved elsewhere; it is no image."""
    made = Model.package(ws, [], config, generate_dockerfile=True, image_label="one")
    made.wait_for_creation(show_output=True)
    out = capsys.readouterr().out
    context = ws.folder / ".azureml" / "packages" / "one" / "context"
    assert (made.state, made.location) == ("Succeeded", str(context))
    assert out.startswith(f"Packaging for standalone in {context.parent}\nWarning: ")
    assert out.endswith("Package creation Succeeded\n")
    assert f"docker build --target standalone -t package:one {context}" in out
    assert made.get_logs() == out.removesuffix("\nPackage creation Succeeded\n")
    assert (context.parent / "log.txt").read_text(encoding="utf-8") == f"{made.get_logs()}\n"
    assert made.serialize() == {
        "operationId": "one",
        "state": "Succeeded",
        "location": str(context),
        "packageBuildLogUri": (context.parent / "log.txt").as_uri(),
    }
    assert made.environment is config.environment
    assert made.get_container_registry() == ContainerRegistry("", "", "")
    made.update_creation_state()

    made.save("saved")
    files = sorted(path.relative_to(context) for path in context.rglob("*"))
    assert files == sorted(path.relative_to("saved") for path in Path("saved").rglob("*"))
    with refused(
        WebserviceException, "saved is not empty: name a folder that is empty or not there."
    ):
        made.save("saved")
    (ws.folder / "file").write_text("", encoding="utf-8")
    with pytest.raises(WebserviceException, match=r"^The package cannot be saved to ") as caught:
        made.save(ws.folder / "file" / "below")
    assert isinstance(caught.value.__cause__, OSError)
    with refused(
        WebserviceException,
        "There is no image to pull, for the package was made with generate_dockerfile=True: get "
        "its files with save.",
    ):
        made.pull()


@pytest.mark.usefixtures("no_index")
def test_two_packages_of_one_label_are_two(ws: Workspace, config: InferenceConfig) -> None:
    """Neither writes into the other's folder."""
    both = [
        Model.package(ws, [], config, generate_dockerfile=True, image_label="same")
        for _ in range(2)
    ]
    for each in both:
        each.wait_for_creation()
    assert [each.operation_id for each in both] == ["same", "same-2"]


def failing(text: str, kind: type[Exception]) -> Any:
    def create(say: Any) -> str:
        say("begun")
        raise kind(text)

    return create


@pytest.mark.parametrize(
    ("kind", "raised"),
    [
        (errors.PackagingError, WebserviceException),
        (errors.ModelNotFound, ModelNotFoundException),
        (OSError, OSError),
    ],
)
def test_what_goes_wrong_in_the_background_is_raised_where_somebody_waits(
    kind: type[Exception], raised: type[Exception], tmp_path: Path
) -> None:
    """Each time, and its sentence stands in the log."""
    made = ModelPackage(
        None, "1", None, failing("no room", kind), log_path=tmp_path / "log", is_folder=True
    )
    for wait in (made.wait_for_creation, made.wait_for_creation, made.pull):
        with pytest.raises(raised, match=r"^no room$"):
            wait()
    assert (made.state, made.location, made.get_logs()) == ("Failed", None, "begun\nno room")


def test_a_workspace_that_is_none_is_refused(config: InferenceConfig) -> None:
    """Anything without a folder."""
    with pytest.raises(WebserviceException, match=r"^int is no workspace here: "):
        Model.package(3, [], config, generate_dockerfile=True)


# --- images ---------------------------------------------------------------------------------------


def program(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of this name, alone with the system's."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


@pytest.mark.usefixtures("no_index")
def test_an_image_that_is_built(
    ws: Workspace,
    config: InferenceConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is on this machine, and the folder it was built from is gone; it has no files to save."""
    program(tmp_path / "programs", "docker", "exit 0", monkeypatch)
    made = Model.package(ws, [], config, image_name="host:5000/my/net", image_label="2")
    made.pull()
    assert (made.state, made.location) == ("Succeeded", "host:5000/my/net:2")
    assert capsys.readouterr().out == "The image host:5000/my/net:2 is on this machine.\n"
    left = ws.folder / ".azureml" / "packages" / "2"
    assert [path.name for path in left.iterdir()] == ["log.txt"]
    with refused(
        WebserviceException,
        "There are no files to save, for the package is an image: make it with "
        "generate_dockerfile=True.",
    ):
        made.save("saved")


@pytest.mark.parametrize("name", ["a b", "net:1", "../net"])
def test_a_name_that_is_no_images(name: str, ws: Workspace, config: InferenceConfig) -> None:
    """Before anything is made; a registry's name and port may stand before it."""
    with pytest.raises(WebserviceException, match=f"The image '{name}:.*' is no name for an image"):
        Model.package(ws, [], config, generate_dockerfile=True, image_name=name)
    with pytest.raises(WebserviceException, match="is no name for an image"):
        Model.package(ws, [], config, generate_dockerfile=True, image_label=name)
    assert not ws.folder.exists()


def test_without_a_builder_it_says_what_to_do(
    ws: Workspace, config: InferenceConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: install one, or make the folder alone."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(WebserviceException) as caught:
        Model.package(ws, [], config)
    assert all(name in str(caught.value) for name in ("docker", "podman", "buildah"))
    assert str(caught.value).endswith(
        " With generate_dockerfile=True the folder is made that an image is built from."
    )
    assert not (ws.folder / ".azureml" / "packages").exists()


# --- models ---------------------------------------------------------------------------------------


def test_a_model_that_is_not_there(ws: Workspace) -> None:
    """One error for who catches the old exception and who catches this package's."""
    Model.register(ws, "model.onnx", "net")
    with pytest.raises(ModelNotFoundException, match=r"There is no model ned\..*net"):
        Model(ws, "ned")
    with pytest.raises(ModelNotFoundException, match=r"There is no model ned\..*net"):
        Model.get_model_path("ned", _workspace=ws)
    gone = Model(ws, "net")
    gone.delete()
    with pytest.raises(ModelNotFoundException):
        gone.delete()


# --- environments ---------------------------------------------------------------------------------


def test_a_name_that_is_no_environments() -> None:
    """It becomes a folder's."""
    with pytest.raises(UserErrorException, match="is not a name for an environment: allowed are"):
        Environment("a/b")


def test_environments_have_versions(ws: Workspace) -> None:
    """The same content is the same version; the highest is taken unless one is named."""
    env = Environment("env")
    assert [env.register(ws).version for _ in range(2)] == ["1", "1"]
    for number in range(2, 11):
        env.environment_variables = {"NUMBER": str(number)}
        assert env.register(ws).version == str(number)
    assert Environment.get(ws, "env").environment_variables == {"NUMBER": "10"}
    assert Environment.get(ws, "env", version="9").environment_variables == {"NUMBER": "9"}
    assert repr(ws.environments["env"]) == "Environment(name='env', version='10')"


def test_an_environment_that_is_not_there(ws: Workspace) -> None:
    """The message lists what there is."""
    Environment("env").register(ws)
    for name, version, there in (
        ("env", "2", "version 2 in the workspace. It has version 1."),
        ("other", None, "other in the workspace. Registered are: env."),
    ):
        with pytest.raises(UserErrorException, match=re.escape(there)):
            Environment.get(ws, name, version)


def whole_environment() -> Environment:
    env = Environment("whole")
    env.python.conda_dependencies = CondaDependencies.create(
        pip_packages=["pillow"], conda_packages=["numpy=1.26"], python_version="3.12"
    )
    env.python.interpreter_path = "/usr/bin/python3"
    env.docker.enabled = True
    env.docker.base_image = "images/one:2"
    env.docker.base_image_registry = ContainerRegistry("registry.example", "me", "hunter2")
    env.environment_variables = {"A": "1"}
    env.inferencing_stack_version = "latest"
    return env


def test_an_environment_is_saved_and_loaded(folder: Path) -> None:
    """All of it but the password, which is written nowhere."""
    whole_environment().save_to_directory("kept")
    loaded = Environment.load_from_directory("kept")
    assert loaded._document() == whole_environment()._document()
    assert loaded.docker.base_image_registry == ContainerRegistry("registry.example", "me", "")
    texts = [path.read_text(encoding="utf-8") for path in Path("kept").iterdir()]
    assert len(texts) == 2
    assert not any("hunter2" in text for text in texts)
    assert "hunter2" not in repr(whole_environment().docker)
    with refused(
        UserErrorException, "kept is not empty: name another folder, or pass overwrite=True."
    ):
        loaded.save_to_directory("kept")
    loaded.save_to_directory("kept", overwrite=True)


def test_the_conda_file_beside_a_saved_environment_counts(folder: Path) -> None:
    """It is the one that is meant to be edited; without it the description holds the packages."""
    whole_environment().save_to_directory("kept")
    conda = folder / "kept" / "conda_dependencies.yml"
    conda.write_text("dependencies: [pandas]", encoding="utf-8")
    edited = Environment.load_from_directory("kept").python.conda_dependencies
    assert list(edited.conda_packages) == ["pandas"]
    conda.unlink()
    described = Environment.load_from_directory("kept").python.conda_dependencies
    assert list(described.conda_packages) == ["numpy=1.26"]


@pytest.mark.parametrize("text", ["{", '{"name": "e", "docker": 3}'])
def test_a_saved_environment_that_is_damaged(text: str, folder: Path) -> None:
    """The message names the file."""
    (folder / "azureml_environment.json").write_text(text, encoding="utf-8")
    with refused(UserErrorException, "azureml_environment.json does not describe an environment."):
        Environment.load_from_directory("")


def test_a_clone_is_another(folder: Path) -> None:
    """Changing it does not change what it was made from."""
    env = whole_environment()
    other = env.clone("other")
    other.environment_variables["B"] = "2"
    assert env.environment_variables == {"A": "1"}
    assert (other.name, other.version, other.docker.base_image) == ("other", None, "images/one:2")


def test_what_an_environment_is_packaged_as(folder: Path) -> None:
    """Packages, Python, variables as texts, and the image with its registry's address."""
    env = whole_environment()
    env.environment_variables["WORKERS"] = 2  # type: ignore[assignment]
    made = env.packages("standalone")
    assert (made.requirements, made.python) == (("numpy==1.26.*", "pillow"), "3.12")
    assert made.variables == {"A": "1", "WORKERS": "2"}
    assert made.base_image == "registry.example/images/one:2"
    env.docker.base_image = "mcr.example/azure-functions/python:4"
    assert env.packages("functions").base_image.endswith("/azure-functions/python:4")
    env.docker.base_image_registry.address = ""
    assert env.packages("functions").base_image == "mcr.example/azure-functions/python:4"
    env.python.user_managed_dependencies = True  # the base image has them
    assert env.packages("standalone").requirements == ()


def test_a_dockerfile_of_ones_own_is_refused(ws: Workspace, config: InferenceConfig) -> None:
    """The message says what to do instead."""
    assert config.environment is not None
    config.environment.docker.base_dockerfile = "FROM python:3.11"
    text = (
        "The environment env has a base_dockerfile, which is not taken: package with "
        "generate_dockerfile=True and edit the Dockerfile, or build that image and name it as "
        "base_image."
    )
    with refused(WebserviceException, text):
        Model.package(ws, [], config)


def test_environments_from_files(folder: Path) -> None:
    """From an image with either file, and with none."""
    (folder / "r.txt").write_text("# first\nredis \\\n  >=5 # fast\n\n-r more.txt\n", "utf-8")
    (folder / "more.txt").write_text("pillow\n", encoding="utf-8")
    (folder / "c.yml").write_text("dependencies: [numpy]", encoding="utf-8")
    registry = ContainerRegistry("registry.example")
    made = Environment.from_docker_image("e", "i:1", registry, pip_requirements="r.txt")
    packages = made.packages("standalone")
    assert packages.requirements == ("redis>=5", "pillow")
    assert packages.base_image == "registry.example/i:1"
    made = Environment.from_docker_image("e", "i:1", conda_specification="c.yml")
    assert made.packages("standalone").requirements == ("numpy",)
    assert Environment.from_docker_image("e", "i:1").packages("standalone").base_image == "i:1"


def test_a_conda_environment_is_not_read() -> None:
    """The message says how to export it."""
    with pytest.raises(UserErrorException, match="conda env export -n NAME --from-history"):
        Environment.from_existing_conda_environment("e", "mine")


@pytest.mark.parametrize("name", ["from_dockerfile", "from_docker_build_context"])
def test_a_dockerfile_is_not_built(name: str) -> None:
    with pytest.raises(UserErrorException, match=r"take Environment\.from_docker_image"):
        getattr(Environment, name)("e", "./Dockerfile", pip_requirements="r.txt")


def test_an_environment_alone_is_no_image(ws: Workspace) -> None:
    """The message says what is."""
    with pytest.raises(WebserviceException, match=r"^An environment alone is not built into an"):
        Environment("e").build_local(ws, useDocker=True)
    with pytest.raises(WebserviceException, match="package a model with it"):
        Environment("e").build(ws)


def test_an_environment_on_this_machine_that_cannot_be_made(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message ends with pip's last word."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    env = Environment("e")
    env.python.conda_dependencies.add_pip_package("no-such-package-anywhere")
    with pytest.raises(WebserviceException, match=r"requirements\.txt cannot be installed: .+"):
        env.build_local(ws)


# --- conda dependencies ---------------------------------------------------------------------------


def test_created_dependencies() -> None:
    """As the document that a conda file holds."""
    made = CondaDependencies.create(
        pip_indexurl="https://packages.example/simple",
        pip_packages=["azureml-defaults", "redis>=5"],
        conda_packages=["scikit-learn", "conda-forge::numpy=1.26"],
        python_version="3.11",
        pin_sdk_version=False,
    )
    assert made.as_dict()["dependencies"] == [
        "python=3.11",
        "scikit-learn",
        "conda-forge::numpy=1.26",
        {"pip": ["--index-url https://packages.example/simple", "azureml-defaults", "redis>=5"]},
    ]
    assert list(made.pip_packages) == ["azureml-defaults", "redis>=5"]
    assert list(made.pip_options) == ["--index-url https://packages.example/simple"]
    assert list(made.conda_packages) == ["scikit-learn", "conda-forge::numpy=1.26"]
    assert made.python_version == "3.11"
    nothing = CondaDependencies()  # the SDK stands for this package
    sdk = {"name": "project_environment", "dependencies": [{"pip": ["azureml-defaults"]}]}
    assert (nothing.as_dict(), nothing.get_python_version()) == (sdk, None)
    assert list(CondaDependencies.create().pip_packages) == ["azureml-defaults"]


def test_a_package_takes_the_place_of_its_namesake() -> None:
    """Versions, extras, channels, case and underscores aside."""
    made = CondaDependencies.create(
        pip_packages=["Scikit_Learn[all]==1.0"], conda_packages=["defaults::NumPy=1"]
    )
    made.add_pip_package("scikit-learn>=1.3")
    made.add_conda_package("numpy>=2")
    assert (list(made.pip_packages), list(made.conda_packages)) == (
        ["scikit-learn>=1.3"],
        ["numpy>=2"],
    )
    made.remove_pip_package("SCIKIT-LEARN")
    made.remove_conda_package("numpy")
    made.remove_pip_package("not-there")
    assert made.as_dict()["dependencies"] == []


def test_channels_options_and_python_are_set_and_removed() -> None:
    """Each once."""
    made = CondaDependencies.create(pip_packages=["redis"])
    for _ in range(2):
        made.add_channel("conda-forge")
        made.set_pip_option("--no-cache-dir")
        made.set_pip_index_url("--index-url https://packages.example/simple")
        made.set_python_version("3.12")
    pip = ["--index-url https://packages.example/simple", "--no-cache-dir", "redis"]
    assert made.as_dict()["dependencies"] == ["python=3.12", {"pip": pip}]
    assert made.as_dict()["channels"] == ["conda-forge"]
    made.remove_channel("conda-forge")
    made.remove_pip_option("--index-url")
    assert list(made.conda_channels) == []
    assert list(made.pip_options) == ["--no-cache-dir"]


def test_dependencies_are_saved_and_read(folder: Path) -> None:
    """Into a file, a folder, and a file below one; what was read can be changed."""
    made = CondaDependencies.create(conda_packages=["numpy"])
    assert made.save() == "conda_dependencies.yml"
    assert made.save("other/env.yml") == "other/env.yml"
    assert made.save_to_file(".", "third.yml") == "third.yml"
    assert made.save_to_file("other") == "conda_dependencies.yml"
    for name in ("conda_dependencies.yml", "other/env.yml", "third.yml"):
        read = CondaDependencies(name)
        assert read.as_dict() == made.as_dict()
        assert read.folder == (folder / name).parent
    read.add_conda_package("pandas")
    assert list(CondaDependencies("third.yml").conda_packages) == ["numpy"]
    assert CondaDependencies(_underlying_structure=read.as_dict()).as_dict() == read.as_dict()


@pytest.mark.parametrize("text", ["a: [", "dependencies: numpy", "dependencies: [{pip: x}]"])
def test_a_conda_file_that_is_none(text: str, folder: Path) -> None:
    """The message names it."""
    (folder / "c.yml").write_text(text, encoding="utf-8")
    with refused(
        UserErrorException, "The conda file absent.yml cannot be read: No such file or directory."
    ):
        CondaDependencies("absent.yml")
    with pytest.raises(UserErrorException, match=r"c\.yml is (no conda environment: |not YAML: )"):
        CondaDependencies("c.yml")


# --- workspaces -----------------------------------------------------------------------------------

OLD_FILE = {"subscription_id": "s", "resource_group": "g", "workspace_name": "work"}


def write_config(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("place", ["config.json", ".azureml/config.json", "aml_config/config.json"])
def test_a_workspace_is_found_upwards(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the file lies, the folder is the same; the nearest file counts."""
    write_config(tmp_path / place, OLD_FILE)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    found = [Workspace.from_config(), Workspace.from_config(path=tmp_path)]
    found.append(Workspace.from_config(str(tmp_path / place)))
    assert [ws.folder for ws in found] == [tmp_path / ".azureml" / "work"] * 3
    assert found[0].get_details()["resourceGroup"] == "g"
    write_config(tmp_path / "a" / "config.json", {"folder": "second"})
    assert Workspace.from_config().folder == tmp_path / "a" / "second"
    write_config(tmp_path / "a" / ".azureml" / "config.json", {"folder": "first"})
    assert Workspace.from_config().folder == tmp_path / "a" / "first"


def test_a_project_without_a_file(tmp_path: Path) -> None:
    """The message says what to write."""
    with pytest.raises(UserErrorException, match=r"absent\.json in .* or a folder above it: write"):
        Workspace.from_config(tmp_path, _file_name="absent.json")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON: "),
        ('{"folder": 3}', "is not what is expected: one JSON object of texts."),
        ('{"resource_group": "g"}', 'names no workspace: expected is {"folder": "…"}, or '),
        ('{"workspace_name": "../b"}', "'../b' is not a name for a workspace: "),
    ],
)
def test_a_file_that_names_no_workspace(text: str, says: str, tmp_path: Path) -> None:
    """The message says what is expected."""
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserErrorException, match=re.escape(says)):
        Workspace.from_config(tmp_path)


@pytest.mark.parametrize("folder_of_its_own", [False, True])
def test_a_written_file_names_the_same_workspace(folder_of_its_own: bool, folder: Path) -> None:
    """Also one whose folder is elsewhere, and from another project."""
    place = folder / "elsewhere" if folder_of_its_own else None
    ws = Workspace("s", "g", "work", folder=place)
    for project in (".", "other"):
        ws.write_config(project)
        again = Workspace.from_config(project)
        assert (again.folder, again.name, again.subscription_id) == (ws.folder, "work", "s")
    ws.write_config(file_name="third.json")
    assert (folder / ".azureml" / "third.json").is_file()


def test_a_workspace_is_made_and_got(folder: Path) -> None:
    """It is there once it was made, and only once unless that is all right."""
    with refused(
        WorkspaceException,
        f"There is no workspace new here: {folder / '.azureml' / 'new'} does not exist. Make it "
        "with Workspace.create.",
    ):
        Workspace.get("new")
    made = Workspace.create("new", location="westeurope", subscription_id="s", sku="basic")
    assert made.folder.is_dir()
    assert Workspace.get("new", resource_group="g").folder == made.folder
    assert Workspace.create("new", exist_ok=True).folder == made.folder
    with pytest.raises(WorkspaceException, match=r"^The workspace new exists already in "):
        Workspace.create("new")


def test_a_workspace_that_cannot_be_made(folder: Path) -> None:
    """A file is in the way."""
    (folder / ".azureml").write_text("", encoding="utf-8")
    with pytest.raises(WorkspaceException, match=r"cannot be made in .*: Not a directory\.$"):
        Workspace.create("new")


def test_a_workspace_lists_what_is_in_it(ws: Workspace) -> None:
    """Models, environments and packages do not get in each other's way."""
    Model.register(ws, "model.onnx", "net")
    Model.register(ws, "model.onnx", "net")
    Environment("env").register(ws)
    assert {name: model.version for name, model in ws.models.items()} == {"net": 2}
    (ws.folder / ".azureml" / "environments" / "empty").mkdir()
    assert list(ws.environments) == ["env"]
    create_package(ws, Specification(), None, generate_dockerfile=True)
    assert list(ws.models) == ["net"]


@pytest.mark.parametrize("name", ["", ".hidden", "a\\b", "2024"])
def test_a_name_that_is_no_workspaces(name: str) -> None:
    """Digits alone would be taken for a model's version."""
    text = (
        f"{name!r} is not a name for a workspace: it becomes a folder's, so expected is a text "
        "without slashes that does not begin with a dot and is not digits alone."
    )
    with refused(WorkspaceException, text):
        Workspace(workspace_name=name)


# --- sign-in --------------------------------------------------------------------------------------


def test_signing_in_asks_nobody() -> None:
    """Whatever is passed is not kept; a local service takes no token."""
    authentication = import_module("scoring_runtime.azureml.core.authentication")
    for name in OLD_NAMES["core.authentication"]:
        made = getattr(authentication, name)("tenant", service_principal_password="hunter2")
        assert vars(made) == {}
        assert made.get_authentication_header() == {}
