"""``azureml.core.webservice`` on this machine, as old programs call it.

About 15 s.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from scoring_runtime.azureml.core import Environment, Workspace
from scoring_runtime.azureml.core.image import ContainerImage
from scoring_runtime.azureml.core.model import InferenceConfig, Model
from scoring_runtime.azureml.core.webservice import (
    LocalWebservice,
    Webservice,
    WebserviceDeploymentConfiguration,
)
from scoring_runtime.azureml.exceptions import WebserviceException
from scoring_runtime.local_services.process import free_port
from tests.conftest import WriteScript
from tests.hosts.waiting import until

SUM = """
    import json, os
    from scoring_runtime import model_path

    def init():
        global weights
        weights = json.loads(model_path().read_text())

    def run(data):
        return sum(x * w for x, w in zip(json.loads(data), weights))
"""
ECHO = "def init(): pass\ndef run(data): return data\n"


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace; its services are ended after the test."""
    workspace = Workspace(folder=tmp_path / "Arbeitsplätze/ws")
    yield workspace
    for service in Webservice.list(workspace):
        service.delete()


@pytest.fixture
def model(ws: Workspace, tmp_path: Path) -> Any:
    """Two weights as JSON."""
    path = tmp_path / "weights.json"
    path.write_text("[1, 10]")
    return Model.register(ws, path, "weights")


Config = Callable[..., InferenceConfig]


@pytest.fixture
def config(write_script: WriteScript) -> Config:
    """``config(source)`` → an inference configuration with that script."""

    def make(source: str = SUM, name: str = "score.py") -> InferenceConfig:
        script = write_script(source, name)
        return InferenceConfig(entry_script=str(script), environment=Environment("env"))

    return make


# --- from deploy() to delete() --------------------------------------------------------------------


def test_a_service_as_the_old_samples_use_it(
    ws: Workspace, model: Any, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """Deployed on the port that was asked for, waited for, run, described and deleted."""
    port = free_port()
    deployment = LocalWebservice.deploy_configuration(port=port)
    service = Model.deploy(ws, "sum-local", [model], config(), deployment)
    assert isinstance(service, LocalWebservice)
    assert service.state == "Transitioning"
    service.wait_for_deployment(show_output=True, timeout_sec=600)
    assert service.state == "Healthy"
    assert service.run(input_data="[1, 2]") == 21
    assert (service.name, service.port, service.error) == ("sum-local", port, None)
    assert service.base_url == f"http://localhost:{port}"
    assert service.scoring_uri == f"http://localhost:{port}/score"
    assert service.swagger_uri == f"http://localhost:{port}/swagger.json"
    out = capsys.readouterr().out
    assert "Users's init has completed successfully" in out
    assert out.endswith(
        'Local service creation operation finished, operation "Succeeded"\n'
        f"Local webservice is running at http://localhost:{port}\n"
    )
    assert "Users's init has completed successfully" in service.get_logs()
    service.delete()
    assert service.state == "Deleted"
    assert Webservice.list(ws) == []
    with pytest.raises(WebserviceException) as caught:
        service.run("[1, 2]")
    assert str(caught.value) == (
        "Cannot call run() when service is Deleted: deploy sum-local again."
    )


def test_what_a_service_is(ws: Workspace, config: Config) -> None:
    """As JSON, and what programs ask before they send a key."""
    service = Model.deploy(ws, "echo", [], config(ECHO))
    service.wait_for_deployment()
    described = service.serialize()
    assert (
        described.items()
        >= {
            "name": "echo",
            "state": "Healthy",
            "createdTime": service.created_time.isoformat(),
            "computeType": "Local",
            "workspaceName": "ws",
            "scoringUri": service.scoring_uri,
            "port": service.port,
        }.items()
    )
    assert json.loads(json.dumps(described)) == described
    assert (service.auth_enabled, service.token_auth_enabled) == (False, False)
    assert service.created_time.utcoffset() is not None
    assert repr(service) == f"LocalWebservice(workspace={ws!r}, name='echo', port={service.port})"


# --- run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webservice]:
    """A service that answers what it is asked for."""
    folder = tmp_path_factory.mktemp("echo")
    (folder / "score.py").write_text(
        "from scoring_runtime import AMLRequest, AMLResponse, rawhttp\n"
        "def init(): pass\n"
        "@rawhttp\n"
        "def run(request):\n"
        "    body = request.get_data()\n"
        "    if body.startswith(b'status '):\n"
        "        return AMLResponse('not today', int(body[7:]), {'x-why': 'asked'})\n"
        "    if body.startswith(b'kind '):\n"
        "        kind = body[5:].decode()\n"
        "        return AMLResponse('grün'.encode(), 200, {'Content-Type': kind})\n"
        "    kind = request.headers['Content-Type']\n"
        "    return AMLResponse({'body': body.decode(), 'kind': kind}, 200, json_str=True)\n"
    )
    script = InferenceConfig(entry_script=str(folder / "score.py"), environment=Environment("e"))
    service = Model.deploy(Workspace(folder=folder / "ws"), "echo", [], script)
    service.wait_for_deployment()
    yield service
    service.delete()


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ("größer", "größer"),
        ("größer".encode(), "größer"),
        (io.BytesIO(b"file"), "file"),
        (io.StringIO("text file"), "text file"),
        ({"data": [[1, 2]]}, '{"data": [[1, 2]]}'),
        ({"data": np.array([1.5])}, '{"data": [1.5]}'),
    ],
)
def test_what_is_sent(echo: Webservice, value: Any, body: str) -> None:
    """Text, bytes and files as they are, everything else as JSON; always named JSON."""
    assert echo.run(value) == {"body": body, "kind": "application/json"}


def test_an_input_that_has_no_json(echo: Webservice) -> None:
    """Nothing is sent."""
    with pytest.raises(WebserviceException) as caught:
        echo.run({1, 2})
    assert str(caught.value) == (
        "The input, a set, cannot be turned to JSON: pass text, bytes, or what JSON has."
    )


@pytest.mark.parametrize(
    ("kind", "result"),
    [("text/plain; charset=utf-8", "grün"), ("image/png", "grün".encode())],
)
def test_an_answer_that_is_not_json(echo: Webservice, kind: str, result: object) -> None:
    """Text stays text, anything else bytes."""
    assert echo.run(f"kind {kind}") == result


@pytest.mark.parametrize("status", [201, 502])
def test_an_answer_that_is_not_200(echo: Webservice, status: int) -> None:
    """The text has the status, the headers and the body; the service goes on."""
    with pytest.raises(WebserviceException) as caught:
        echo.run(f"status {status}")
    text = str(caught.value)
    assert text.startswith(
        "Received bad response from service. More information can be found by calling "
        f"`.get_logs()` on the webservice object.\nResponse Code: {status}\nHeaders: {{"
    )
    assert "'x-why': 'asked'" in text
    assert "not today" in text.partition("\nContent: ")[2]
    assert echo.state == "Healthy"


def test_the_last_lines_of_the_log(echo: Webservice) -> None:
    """As many as are asked for."""
    lines = echo.get_logs().splitlines()
    assert len(lines) > 5
    assert echo.get_logs(num_lines=2, raw=True).count("\n") == 2


# --- what is refused ------------------------------------------------------------------------------

NAME = "it must have 3 to 32 lowercase letters"


def test_a_name_that_exists(ws: Workspace, config: Config) -> None:
    """The running service stays, unless it is overwritten."""
    first = Model.deploy(ws, "echo", [], config(ECHO))
    with pytest.raises(WebserviceException) as caught:
        Model.deploy(ws, "echo", [], config(ECHO))
    expected = (
        f"A service echo already exists, on port {first.port}: update or delete it, choose another "
        "name, or overwrite it."
    )
    assert str(caught.value) == expected
    with pytest.raises(WebserviceException) as caught:
        Webservice.check_for_existing_webservice(ws, "echo")
    assert str(caught.value) == expected
    Webservice.check_for_existing_webservice(ws, "other")
    Webservice.check_for_existing_webservice(ws, "echo", overwrite=True)
    second = Model.deploy(
        ws, "echo", [], config("def init(): pass\ndef run(data): return 2\n"), overwrite=True
    )
    assert (second.run("1"), second.port) == (2, first.port)
    assert first.run("1") == 2


@pytest.mark.parametrize("port", [0, 65536, "8890", True], ids=repr)
def test_a_port_that_cannot_be_one(port: Any) -> None:
    """The configuration is not made."""
    with pytest.raises(WebserviceException) as caught:
        LocalWebservice.deploy_configuration(port=port)
    assert str(caught.value) == (
        "Invalid configuration, port must be an integer from 1 to 65535, or None for a free one; "
        f"it is {port!r}."
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"deployment_config": WebserviceDeploymentConfiguration()},
            "Error, provided deployment configuration must be of type "
            "LocalWebserviceDeploymentConfiguration in order to deploy a local service; it is a "
            "WebserviceDeploymentConfiguration.",
        ),
        (
            {},
            "You must provide an InferenceConfig when deploying zero models: there is nothing to "
            "serve.",
        ),
    ],
)
def test_what_cannot_be_deployed(ws: Workspace, options: dict[str, Any], text: str) -> None:
    """Nothing is started."""
    with pytest.raises(WebserviceException) as caught:
        Model.deploy(ws, "wrong", [], **options)
    assert str(caught.value) == text
    assert Webservice.list(ws) == []


def test_a_deployment_target(ws: Workspace, config: Config) -> None:
    """There is none but this machine."""
    with pytest.raises(WebserviceException, match=r"^'aks' cannot be deployed to: "):
        Model.deploy(ws, "echo", [], config(ECHO), deployment_target="aks")


def test_what_the_cloud_alone_has(ws: Workspace, config: Config) -> None:
    """Keys and tokens are not supported, as they were not."""
    service = Model.deploy(ws, "echo", [], config(ECHO))
    assert isinstance(service, LocalWebservice)
    for call in (service.get_keys, service.get_token, lambda: service.regen_key("Primary")):
        with pytest.raises(NotImplementedError, match=r"^Local web services do not support "):
            call()


# --- finding --------------------------------------------------------------------------------------


def test_services_are_listed_by_name_and_model(
    ws: Workspace, model: Any, config: Config, tmp_path: Path
) -> None:
    """What a filter names is there in all of them; a filter for the cloud leaves none."""
    second = Model.register(ws, tmp_path / "weights.json", "weights")
    other = Model.register(ws, tmp_path / "weights.json", "other")
    Model.deploy(ws, "two", [other, second], config(ECHO))
    Model.deploy(ws, "one", [model], config(ECHO))

    def names(found: Sequence[Webservice]) -> list[str]:
        return [each.name for each in found]

    assert names(Webservice.list(ws)) == ["one", "two"]
    assert names(Webservice.list(ws, model_name="other")) == ["two"]
    assert names(LocalWebservice.list(ws, model_id="weights:1")) == ["one"]
    assert names(Webservice.list(ws, compute_type="Local")) == ["one", "two"]
    assert names(Webservice.list(ws, compute_type="ACI")) == []
    assert names(Webservice.list(ws, image_name="image")) == []


# --- updating -------------------------------------------------------------------------------------


def test_a_service_is_updated_while_it_runs(
    ws: Workspace, model: Any, config: Config, tmp_path: Path
) -> None:
    """Models, script and port each on its own; what is not named stays."""
    service = Model.deploy(ws, "sum", [model], config())
    assert service.run("[1, 2]") == 21
    port = service.port
    (tmp_path / "weights.json").write_text("[2, 20]")
    second = Model.register(ws, tmp_path / "weights.json", "weights")
    service.update(models=[second], wait=True)
    assert (service.run("[1, 2]"), service.port) == (42, port)
    new = free_port()
    service.update(
        inference_config=config(SUM.replace("sum(", "-sum("), "other.py"),
        deployment_config=LocalWebservice.deploy_configuration(port=new),
    )
    assert (service.run("[1, 2]"), service.port) == (-42, new)


def test_what_only_services_in_the_cloud_have_is_taken(ws: Workspace, config: Config) -> None:
    """Application Insights by the setting of the host; the rest changes nothing, not even the
    process. Secrets stay, though no file has them."""
    inference = config("import os\ndef init(): pass\ndef run(data): return os.environ.get(data)\n")
    assert inference.environment is not None
    inference.environment.environment_variables = {"REDIS_KEY": "hunter2"}
    service = Model.deploy(ws, "told", [], inference)
    service.wait_for_deployment()
    before = service.updated_time
    service.update(tags={"a": "b"}, auth_enabled=False)
    assert service.updated_time == before
    service.update(enable_app_insights=False, models=[])
    names = ("AML_APP_INSIGHTS_ENABLED", "REDIS_KEY")
    assert [service.run(each) for each in names] == ["false", "hunter2"]
    assert service.create_version("next").run("REDIS_KEY") == "hunter2"


def test_versions_of_an_endpoint_are_services_beside_it(ws: Workspace, config: Config) -> None:
    """Each on a port of its own; what is not said is as in the service itself."""
    service = Model.deploy(ws, "echo", [], config(ECHO))
    same = service.create_version("same", traffic_percentile=20)
    other = service.create_version("b", config(ECHO.replace("data\n", "'b'\n"), "b.py"))
    assert [each.run("1") for each in (service, same, other)] == ["1", "1", "b"]
    assert [*ws.webservices] == ["echo", "echo-b", "echo-same"]
    service.update_version("b", config(ECHO.replace("data\n", "'c'\n"), "c.py"), is_default=True)
    assert (service.run("1"), other.run("1")) == ("1", "c")


def test_a_model_and_an_image_of_the_first_releases(
    ws: Workspace, model: Any, write_script: WriteScript
) -> None:
    """Before there were environments."""
    script = write_script(SUM)
    image_config = ContainerImage.image_configuration(str(script), "python", tags={"a": "b"})
    image = ContainerImage.create(
        workspace=ws, name="sum", models=[model], image_config=image_config
    )
    image.wait_for_creation(show_output=True)
    of_image = Webservice.deploy_from_image(workspace=ws, name="of-image", image=image)
    of_model = Webservice.deploy_from_model(
        workspace=ws, name="of-model", models=[model], image_config=image_config
    )
    assert [each.run("[1, 2]") for each in (of_image, of_model)] == [21, 21]


# --- keys -----------------------------------------------------------------------------------------


def answered(service: Webservice, key: str) -> int:
    """As programs ask it that send a key themselves."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.post(service.scoring_uri, content=b"1", headers=headers).status_code


def test_a_service_asks_for_one_of_two_keys(ws: Workspace, config: Config) -> None:
    """Made for it; its own ``run()`` sends one; another program finds them."""
    with_keys = LocalWebservice.deploy_configuration(auth_enabled=True)
    service = Model.deploy(ws, "keyed", [], config(ECHO), with_keys)
    service.wait_for_deployment()
    assert service.auth_enabled is True
    assert service.serialize()["authEnabled"] is True
    primary, secondary = service.get_keys()
    assert [answered(service, each) for each in (primary, secondary, "", "x" * 43)] == [
        *(200, 200), *(401, 401),
    ]  # fmt: skip
    assert service.run("1") == "1"
    assert Webservice(ws, "keyed").get_keys() == (primary, secondary)
    assert primary not in service.get_logs()
    [file] = Path(ws.folder).rglob("keys.txt")
    assert file.stat().st_mode & 0o777 == 0o600
    assert primary not in file.with_name("service.json").read_text()


def test_a_key_is_made_anew_and_the_other_stays(ws: Workspace, config: Config) -> None:
    """So that clients can be moved one by one; or it is one that is given."""
    first, second = "primary-0123456789", "secondary-0123456789"
    wanted = LocalWebservice.deploy_configuration(
        auth_enabled=True, primary_key=first, secondary_key=second
    )
    service = Model.deploy(ws, "turned", [], config(ECHO), wanted)
    service.wait_for_deployment()
    assert service.get_keys() == (first, second)
    service.regen_key("primary")
    new, kept = service.get_keys()
    assert (len(new) > 20, kept) == (True, second)
    until(lambda: answered(service, first) == 401)
    assert [answered(service, each) for each in (new, kept)] == [200, 200]
    service.regen_key("Secondary", set_key="another-0123456789")
    until(lambda: answered(service, "another-0123456789") == 200)
    assert service.get_keys() == (new, "another-0123456789")
    keys: list[Any] = ["Tertiary", "", None]
    for key in keys:
        with pytest.raises(WebserviceException, match=r"Valid options are: Primary, Secondary$"):
            service.regen_key(key)
    for bad in ("short", "with a space 0123456789", "ümlaut-0123456789"):
        with pytest.raises(WebserviceException, match=r"^A key must have at least 16 characters "):
            service.regen_key("Primary", bad)
    with pytest.raises(WebserviceException, match=r"^The primary and the secondary key must be "):
        service.regen_key("Primary", "another-0123456789")
    assert service.get_keys() == (new, "another-0123456789")


def test_keys_are_switched_on_and_off(ws: Workspace, config: Config) -> None:
    """By an update; one that fails leaves them; a version asks for keys of its own."""
    service = Model.deploy(ws, "switch", [], config(ECHO))
    service.update(auth_enabled=True, wait=True)
    keys = service.get_keys()
    assert [answered(service, keys[0]), answered(service, "")] == [200, 401]
    service.update(auth_enabled=True, tags={"a": "b"})
    assert service.get_keys() == keys
    version = service.create_version("two")
    version.wait_for_deployment()
    assert version.auth_enabled
    assert version.get_keys() != keys
    missing = InferenceConfig(entry_script="/missing.py", environment=Environment("e"))
    with pytest.raises(WebserviceException):
        service.update(auth_enabled=False, inference_config=missing)
    assert service.get_keys() == keys
    service.update(auth_enabled=False, wait=True)
    assert (service.auth_enabled, answered(service, "")) == (False, 200)
    service.delete()
    assert service.auth_enabled is False
