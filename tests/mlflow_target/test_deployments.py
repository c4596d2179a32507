"""MLflow's deployment target ``scoring-runtime``, by mlflow's own command line and client.

About 25 s, most of it for mlflow's command line to start.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from scoring_runtime.azureml.core import Workspace
from scoring_runtime.azureml.core.webservice import AciWebservice
from scoring_runtime.azureml.exceptions import WebserviceException
from scoring_runtime.errors import PackagingError
from scoring_runtime.local_services import service as local_service
from scoring_runtime.local_services.process import free_port
from scoring_runtime.mlflow_target import azureml as mlflow_azureml
from scoring_runtime.mlflow_target import deployments as mlflow_deployments
from scoring_runtime.mlflow_target.config import _PACKAGE, _SERVICE, Config
from scoring_runtime.mlflow_target.sources import _PAYLOADS
from scoring_runtime.packaging import resolution
from tests.models_for_tests import IRIS_NAMES, IRIS_ROWS, named_iris_estimator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow
    import mlflow.pyfunc
    import mlflow.sklearn
    from mlflow.deployments import BaseDeploymentClient, get_deploy_client
    from mlflow.deployments.cli import commands
    from mlflow.deployments.interface import plugin_store
    from mlflow.exceptions import MlflowException
    from mlflow.models import infer_signature

# mlflow's own, when it loads and saves models.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:FutureWarning:mlflow",
    "ignore:.*:DeprecationWarning:mlflow",
    "ignore:X does not have valid feature names",
)
ROWS = pd.DataFrame(IRIS_ROWS, columns=list(IRIS_NAMES))


def save(path: Path, scale: float = 1.0) -> Path:
    """An MLflow model of the irises; with another scale it answers otherwise."""
    model = named_iris_estimator()
    if scale != 1.0:
        model = deepcopy(model).fit(ROWS * scale, [2, 1, 0, 1])  # the other is everybody's
    signature = infer_signature(ROWS, model.predict(ROWS))
    mlflow.sklearn.save_model(
        model,
        path,
        signature=signature,
        serialization_format="pickle",
        pip_requirements=["scikit-learn"],
    )
    return path


def register() -> None:
    """As mlflow does with the entry point of an installed package."""
    store: Any = plugin_store
    store.register("scoring-runtime", "scoring_runtime.mlflow_target.deployments")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "Modell für Köln")


@pytest.fixture(scope="module")
def expected(model: Path) -> list[int]:
    """What pyfunc itself predicts."""
    answer: list[int] = mlflow.pyfunc.load_model(str(model)).predict(ROWS).tolist()
    return answer


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The target's folder; its deployments are ended after the test."""
    folder = tmp_path / "deployments"
    folder.mkdir()
    yield folder
    for service in local_service.listing(folder):
        service.delete()


@pytest.fixture
def client(root: Path) -> Any:
    """mlflow's client of the target."""
    register()
    get: Any = get_deploy_client
    return get(f"scoring-runtime:{root}")


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder of its own; what is deployed in it is ended after the test."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    yield folder
    for service in local_service.listing(folder / ".scoring-runtime"):
        service.delete()


def process(home: Path, command: str, *options: str) -> str:
    """What ``mlflow deployments`` prints as a process; the target is found by its entry point."""
    metadata = home / "site/scoring_runtime_target-0.0.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Name: scoring-runtime-target\nVersion: 0.0.0\n")
    (metadata / "entry_points.txt").write_text(
        "[mlflow.deployments]\nscoring-runtime = scoring_runtime.mlflow_target.deployments\n"
    )
    path = os.pathsep.join([str(home / "site"), str(Path(__file__).parents[2])])
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "PYTHONPATH": path}
    target = ("-t", "scoring-runtime")
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "deployments", command, *target, *options],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command_line(command: str, *options: str) -> str:
    """The same in this process."""
    register()
    done = CliRunner().invoke(commands, [command, "-t", "scoring-runtime", *options])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_line(home: Path, model: Path, expected: list[int]) -> None:
    """run-local returns once the model is served; predict answers what pyfunc predicts; the rest
    of the commands find the deployment from elsewhere."""
    port = free_port()
    options = ("-m", str(model), "--name", "iris", "-C", f"port={port}")
    assert process(home, "run-local", *options) == (
        f"iris is served at http://localhost:{port}/score until "
        "mlflow deployments delete -t scoring-runtime --name iris\n"
    )
    assert local_service.find(home / ".scoring-runtime", "iris").state == "Healthy"
    rows = home / "rows.json"
    ROWS.to_json(rows)
    predicted = command_line("predict", "--name", "iris", "-I", str(rows))
    assert json.loads(predicted) == {"predictions": expected}
    listed = command_line("list")
    assert listed.startswith("List of all deployments:\n[{'name': 'iris', ")
    got = command_line("get", "--name", "iris").splitlines()
    assert {"name: iris", "flavor: python_function", "state: Healthy", f"port: {port}"} <= {*got}
    assert command_line("delete", "--name", "iris") == "Deployment iris is deleted\n"
    assert command_line("list") == "List of all deployments:\n[]\n"


def test_the_help_of_the_command_line() -> None:
    """It is the help on the target."""
    assert command_line("help") == mlflow_deployments.target_help() + "\n"


def test_the_help_names_every_key_and_what_predict_takes() -> None:
    """Of config, each with what it means; mlflow calls ``run_local`` without the target URI."""
    text = mlflow_deployments.target_help()
    assert [key for key in (*_SERVICE, *_PACKAGE) if not re.search(rf"\b{key}\b", text)] == []
    assert "with -C folder=/FOLDER" in text
    assert [each for each in _PAYLOADS if each not in text] == []


@pytest.mark.parametrize("orient", ["records", "list"])
def test_predict_on_the_command_line_takes_what_the_help_says(
    home: Path, model: Path, expected: list[int], orient: Any
) -> None:
    """Rows or columns; the folder that ``run-local`` was given is that of the target URI."""
    folder = home / "noted"
    options = ("-m", str(model), "--name", "iris", "-C", f"folder={folder}")
    command_line("run-local", *options, "-C", f"port={free_port()}")
    rows = home / "rows.json"
    rows.write_text(json.dumps(ROWS.to_dict(orient=orient)))
    target = ("-t", f"scoring-runtime:{folder}")
    done = CliRunner().invoke(commands, ["predict", *target, "--name", "iris", "-I", str(rows)])
    local_service.find(folder, "iris").delete()
    assert json.loads(done.output) == {"predictions": expected}


# --- the client -----------------------------------------------------------------------------------


def test_the_plugin_has_one_client_class() -> None:
    """As mlflow's plugin manager looks for it; asking for it is what imports mlflow."""
    module = importlib.import_module("scoring_runtime.mlflow_target.deployments")
    assert {"ScoringRuntimeClient", "run_local", "target_help"} <= set(dir(module))
    members = [getattr(module, name) for name in dir(module)]
    classes = [each for each in members if isinstance(each, type)]
    clients = [each for each in classes if issubclass(each, BaseDeploymentClient)]
    assert [each.__name__ for each in clients] == ["ScoringRuntimeClient"]
    with pytest.raises(AttributeError, match=r"has no attribute 'nope'$"):
        _ = mlflow_deployments.nope


def test_a_deployment_from_create_to_delete(
    client: Any, root: Path, model: Path, expected: list[int], tmp_path: Path
) -> None:
    """Created, found, asked, updated to another model, and deleted twice."""
    created = client.create_deployment("iris", str(model))
    assert created == client.get_deployment("iris")
    assert client.list_deployments() == [created]
    port = created["port"]
    assert {key: created[key] for key in ("name", "flavor", "state", "scoring_uri")} == {
        "name": "iris",
        "flavor": "python_function",
        "state": "Healthy",
        "scoring_uri": f"http://localhost:{port}/score",
    }
    answer = client.predict("iris", ROWS)
    assert answer == {"predictions": expected}
    assert answer.get_predictions("ndarray").tolist() == expected

    other = save(tmp_path / "other", scale=2.0)
    wanted = mlflow.pyfunc.load_model(str(other)).predict(ROWS).tolist()
    assert wanted != expected
    updated = client.update_deployment("iris", str(other))
    assert (updated["flavor"], updated["port"]) == ("python_function", port)
    assert client.predict("iris", ROWS) == {"predictions": wanted}

    client.delete_deployment("iris")
    client.delete_deployment("iris")
    assert client.list_deployments() == []
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_what_predict_takes(client: Any, model: Path, expected: list[int]) -> None:
    """A table, records, a payload as ``mlflow models serve`` takes it, columns; what the model
    refuses raises with the status and the answer."""
    client.create_deployment("iris", str(model))
    columns = {name: ROWS[name].to_numpy() for name in ROWS}
    split = {"dataframe_split": ROWS.to_dict(orient="split")}
    records = {"dataframe_records": ROWS.to_dict(orient="records")}
    for inputs in (ROWS, split, records, columns, json.dumps(split)):
        assert client.predict("iris", inputs) == {"predictions": expected}
    with pytest.raises(MlflowException, match=r"^The deployment iris answers 400: \{"):
        client.predict("iris", np.array([["a"]]))
    for call in (client.predict, client.update_deployment):
        with pytest.raises(MlflowException, match=r"^There is no service 'other' in .* are: iris"):
            call("other", ROWS)
    with pytest.raises(MlflowException, match=r"^A service iris already exists, on port \d+: "):
        client.create_deployment("iris", str(model))


def test_a_model_of_a_run_and_of_the_registry(
    client: Any,
    root: Path,
    model: Path,
    expected: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is downloaded, also for a move to another port, and the download is removed with the
    deployment."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(str(tmp_path / "runs"))
    try:
        with mlflow.start_run() as run:
            mlflow.log_artifacts(str(model), "model")
        registry = mlflow.MlflowClient()
        registry.create_registered_model("iris")
        registry.create_model_version("iris", f"{run.info.artifact_uri}/model", run.info.run_id)
        client.create_deployment("of-run", f"runs:/{run.info.run_id}/model")
        client.create_deployment("of-registry", "models:/iris/1")
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type, unused-ignore]
    shutil.rmtree(tmp_path / "runs")
    port = free_port()
    command = ("update", "--name", "of-run", "-C", f"port={port}", "-C", f"folder={root}")
    assert command_line(*command) == "Deployment of-run is updated (with flavor python_function)\n"
    assert client.get_deployment("of-run")["port"] == port
    for name in ("of-run", "of-registry"):
        assert client.predict(name, ROWS) == {"predictions": expected}
        client.delete_deployment(name)
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_deployment_that_is_not_waited_for(client: Any, model: Path) -> None:
    """With ``wait=false`` it is Transitioning yet."""
    assert client.create_deployment("iris", str(model), config={"wait": False})["state"] == (
        "Transitioning"
    )


def test_run_local_from_python(root: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``folder`` says where it is noted, and what is printed how to end it."""
    config = {"folder": str(root), "port": free_port()}
    mlflow_deployments.run_local("iris", str(model), config=config)
    assert capsys.readouterr().out == (
        f"iris is served at http://localhost:{config['port']}/score until "
        f"mlflow deployments delete -t scoring-runtime:{root} --name iris\n"
    )
    assert local_service.find(root, "iris").state == "Healthy"


def test_a_model_that_cannot_be_loaded(client: Any, model: Path, tmp_path: Path) -> None:
    """create raises, the text ends with the cause; get has it too."""
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "model.pkl").write_bytes(b"no pickle")
    with pytest.raises(MlflowException) as caught:
        client.create_deployment("broken", str(broken))
    last = str(caught.value).splitlines()[-1]
    assert last.startswith("Cause: ")
    described = client.get_deployment("broken")
    assert described["state"] == "Failed"
    assert described["error"].splitlines()[-1] == last


# --- packages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "target", "triggers"),
    [
        (
            {"trigger": ["http", "service_bus_queue"], "input-queue": "q"},
            "functions",
            "http,service_bus",
        ),
        ({"target": "standalone", "trigger": "http"}, "standalone", "http"),
    ],
)
def test_a_package(
    client: Any, root: Path, model: Path, config: Any, target: str, triggers: str, tmp_path: Path
) -> None:
    """A build context with the model in it; nothing is served."""
    output = tmp_path / "out"
    made = client.create_deployment(
        "iris", str(model), config={**config, "output": str(output), "resolve": False}
    )
    assert made == {
        "name": "iris",
        "flavor": "python_function",
        "path": str(output),
        "target": target,
    }
    assert (output / "azureml-models/iris/1" / model.name / "MLmodel").is_file()
    assert f"SCORING_TRIGGERS={triggers}" in (output / "Dockerfile").read_text().replace('"', "")
    assert client.list_deployments() == []
    assert list(root.iterdir()) == []


def test_an_image_without_a_builder(client: Any, model: Path, tmp_path: Path) -> None:
    """It is asked for before anything is made."""
    output = tmp_path / "out"
    config = {"output": str(output), "build": True, "builder": "kaniko"}
    with pytest.raises(MlflowException) as caught:
        client.create_deployment("iris", str(model), config=config)
    assert str(caught.value) == ("'kaniko' is no image builder. Allowed: docker, podman, buildah.")
    assert not output.exists()


# --- what is refused ------------------------------------------------------------------------------

KEYS = (
    "port, folder, wait, output, target, trigger, auth_level, input_path, output_path, "
    "input_queue, output_queue, resolve, build, builder, tag"
)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"ports": 1}, f"There is no config 'ports' for this target. Allowed: {KEYS}."),
        ({"port": "0"}, "config port is '0'. Allowed: 1 to 65535."),
        ({"wait": "maybe"}, "config wait is 'maybe'. Allowed: true or false."),
        ({"target": "aci"}, "config target is 'aci'. Allowed: functions, standalone."),
        (
            {"trigger": "http,timer"},
            "config trigger is 'timer'. Allowed: http, blob, service_bus, service_bus_queue.",
        ),
        (
            {"port": 1, "output": "x", "build": "true"},
            "config port is for a deployment on this machine, and output, build for a package: "
            "give one or the other.",
        ),
    ],
)
def test_a_config_that_is_not_allowed(client: Any, root: Path, config: Any, text: str) -> None:
    """Nothing is made, whatever the command."""
    with pytest.raises(PackagingError) as caught:
        Config.of(config)
    assert str(caught.value) == text
    with pytest.raises(MlflowException) as refused:
        client.create_deployment("iris", "nowhere", config=config)
    assert str(refused.value) == text
    assert list(root.iterdir()) == []


def test_keys_of_packages_elsewhere(client: Any, root: Path, model: Path) -> None:
    """They are for create."""
    config = {"build": "true", "folder": str(root)}
    calls: dict[str, Callable[[], object]] = {
        "run-local": lambda: mlflow_deployments.run_local("iris", str(model), config=config),
        "update": lambda: client.update_deployment("iris", config=config),
        "delete": lambda: client.delete_deployment("iris", config=config),
    }
    for command, call in calls.items():
        with pytest.raises(MlflowException) as caught:
            call()
        assert str(caught.value) == (
            f"config build is for create, not for {command}. Allowed here: port, folder, wait."
        )


def test_endpoints(client: Any) -> None:
    """There are none."""
    calls: list[Callable[[], object]] = [
        lambda: client.create_deployment("iris", "uri", endpoint="e"),
        lambda: client.update_deployment("iris", endpoint="e"),
        lambda: client.delete_deployment("iris", endpoint="e"),
        lambda: client.list_deployments(endpoint="e"),
        lambda: client.get_deployment("iris", endpoint="e"),
        lambda: client.predict(endpoint="e"),
        lambda: client.create_endpoint("e"),
        lambda: client.update_endpoint("e"),
        lambda: client.delete_endpoint("e"),
        lambda: client.get_endpoint("e"),
        lambda: client.list_endpoints(),
    ]
    for call in calls:
        with pytest.raises(MlflowException) as caught:
            call()
        assert str(caught.value) == (
            "The target scoring-runtime has no endpoints: name a deployment."
        )


def test_what_is_no_model(client: Any, root: Path, model: Path, tmp_path: Path) -> None:
    """A folder without MLmodel, a URI that leads nowhere, a flavour that is not served, a name."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(MlflowException) as caught:
        client.create_deployment("iris", str(tmp_path / "empty"))
    assert str(caught.value) == (
        f"{tmp_path / 'empty'} is no MLflow model: expected is a folder with a file MLmodel."
    )
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(MlflowException, match=rf"^The model {re.escape(nowhere)} cannot be had: "):
        client.create_deployment("iris", nowhere)
    with pytest.raises(MlflowException) as caught:
        client.create_deployment("iris", str(model), flavor="sklearn")
    assert str(caught.value) == (
        "The flavour 'sklearn' is not served: leave it out, or name python_function."
    )
    with pytest.raises(MlflowException, match=r"^'My_Model' is not a name for a service: "):
        client.create_deployment("My_Model", str(model))
    assert [path for path in root.rglob("*") if path.is_file()] == []


# --- mlflow.azureml -------------------------------------------------------------------------------


def test_mlflow_azureml_deploys_to_container_instances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As mlflow 1 did: the service and the registered model; it is packaged without a script."""
    monkeypatch.setattr(resolution, "check", lambda *_: ())
    ws = Workspace(folder=tmp_path / "ws")
    service, model = mlflow_azureml.deploy(
        model_uri=str(save(tmp_path / "saved")),
        workspace=ws,
        deployment_config=AciWebservice.deploy_configuration(cpu_cores=1, memory_gb=1),
        service_name="irises",
        model_name="iris-model",
        tags={"a": "b"},
    )
    assert isinstance(service, AciWebservice) and service.state == "Packaged"
    assert (model.name, model.tags) == ("iris-model", {"a": "b"})
    assert "az container create" in capsys.readouterr().out
    assert (service.files.parent / "package/azureml-models/iris-model/1").is_dir()
    with pytest.raises(WebserviceException, match="mlflow_home named a source of mlflow"):
        mlflow_azureml.deploy("x", ws, mlflow_home="mlflow")
    with pytest.raises(MlflowException, match="is no MLflow model"):
        mlflow_azureml.deploy(str(tmp_path), ws)
