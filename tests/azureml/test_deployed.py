"""Services in the cloud: a package and the files that deploy it; nothing is sent to Azure.

The samples of the old documentation are in test_samples.py.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime.azureml.core import Environment, Workspace
from scoring_runtime.azureml.core.aks_compute import AksCompute
from scoring_runtime.azureml.core.model import InferenceConfig, Model
from scoring_runtime.azureml.core.webservice import (
    AciWebservice,
    AksWebservice,
    LocalWebservice,
    Webservice,
)
from scoring_runtime.azureml.exceptions import ComputeTargetException, WebserviceException
from scoring_runtime.packaging import resolution
from scoring_runtime.packaging.deployment import files

KEY = "abcdefghijklmnop"
ACI, AKS = AciWebservice.deploy_configuration, AksWebservice.deploy_configuration
Deploy = Callable[..., Any]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(folder=tmp_path / "ws")


@pytest.fixture
def config(tmp_path: Path) -> InferenceConfig:
    """A script, with a secret among its variables."""
    script = tmp_path / "source" / "score.py"
    script.parent.mkdir()
    script.write_text("def init(): pass\ndef run(data): return data\n")
    environment = Environment("env")
    environment.environment_variables = {"DB_PASSWORD": "pa55word-of-mine", "SCORING_NAN": "null"}
    return InferenceConfig(entry_script=str(script), environment=environment)


@pytest.fixture
def deploy(ws: Workspace, config: InferenceConfig, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """``deploy(name, configuration)``; pip is not asked."""
    monkeypatch.setattr(resolution, "check", lambda *_: ())

    def run(name: str, said: Any, **more: Any) -> Any:
        return Model.deploy(ws, name, [], config, said, **more)

    return run


def test_secrets_are_in_their_own_file_alone(deploy: Deploy, ws: Workspace) -> None:
    """Keys, and what the environment of the script has; for their owner's eyes."""
    service = deploy("keyed", AKS(primary_key=KEY))
    path = service.files / files.SECRETS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files.read_secrets(service.files)["DB_PASSWORD"] == "pa55word-of-mine"
    for each in (each for each in ws.folder.rglob("*") if each.is_file() and each != path):
        content = each.read_bytes()
        for secret in (*service.get_keys(), "pa55word-of-mine"):
            assert secret.encode() not in content, each
    assert not service.files.is_relative_to(service.files.parent / "package")


def test_an_update_keeps_what_it_does_not_name(deploy: Deploy) -> None:
    """Keys, secrets and arguments; each makes another image."""
    service = deploy("kept", ACI(auth_enabled=True, cpu_cores=1))
    keys = service.get_keys()
    service.update(memory_gb=2, tags={"a": "b"})
    again = AciWebservice(service.workspace, "kept")
    said = again.deployment_configuration.given
    assert said == {"auth_enabled": True, "cpu_cores": 1, "memory_gb": 2, "tags": {"a": "b"}}
    assert again.tags == {"a": "b"}
    assert again.get_keys() == keys
    assert files.read_secrets(again.files)["DB_PASSWORD"] == "pa55word-of-mine"
    assert (
        "image: ${REGISTRY}.azurecr.io/kept:2" in (again.files / "container-group.yaml").read_text()
    )
    again.regen_key("Secondary", KEY)
    assert again.get_keys() == (keys[0], KEY)
    service.update(auth_enabled=False)
    assert not service.auth_enabled
    with pytest.raises(WebserviceException, match="kept asks for no key"):
        service.get_keys()


def test_what_an_update_refuses_changes_nothing(deploy: Deploy) -> None:
    service = deploy("same", ACI(auth_enabled=True))
    before = {each: each.read_bytes() for each in service.files.iterdir()}
    for given, says in (
        ({"cpu_cores": -1}, "cpu_cores is -1"),
        ({"cpu_core": 1}, "unexpected keyword argument 'cpu_core'"),
        ({"primary_key": "short"}, "primary_key is not allowed"),
    ):
        with pytest.raises(WebserviceException, match=says):
            service.update(**given)
    for key, says in (("third", "Valid options are: Primary, Secondary"), (None, "for key: None")):
        with pytest.raises(WebserviceException, match=says):
            service.regen_key(key)
    assert {each: each.read_bytes() for each in service.files.iterdir()} == before


def test_services_are_found_by_their_kind(deploy: Deploy, ws: Workspace) -> None:
    deploy("one", ACI())
    deploy("two", AKS())
    assert isinstance(Webservice(ws, "one"), AciWebservice)
    assert isinstance(Webservice(workspace=ws, name="two"), AksWebservice)
    assert list(ws.webservices) == ["one", "two"]
    assert [each.name for each in Webservice.list(ws, "aci")] == ["one"]
    assert [each.name for each in Webservice.list(ws, model_name="other")] == []
    assert LocalWebservice.list(ws) == []
    with pytest.raises(WebserviceException, match=r"no service 'two' of the type ACI.*: one\."):
        AciWebservice(ws, "two")
    for kind, name in ((Webservice, "gone"), (LocalWebservice, "two")):
        with pytest.raises(WebserviceException, match=r"There are: one \(ACI\), two \(AKS\)\."):
            kind(ws, name)


def test_a_name_is_taken_once(deploy: Deploy) -> None:
    deploy("one", ACI())
    with pytest.raises(WebserviceException, match="A service one already exists"):
        deploy("one", AKS())
    assert isinstance(deploy("one", AKS(), overwrite=True), AksWebservice)
    with pytest.raises(WebserviceException, match="'A b' is not a name for a service"):
        deploy("A b", ACI())


def test_what_needs_a_cloud_says_so(deploy: Deploy, capsys: pytest.CaptureFixture[str]) -> None:
    """And what to do; a deleted service is not deployed."""
    service = deploy("away", ACI(), show_output=True)
    assert "away: packaged" in capsys.readouterr().out
    with pytest.raises(WebserviceException, match=r"away is packaged, not deployed: run .*here"):
        service.run("[1]")
    with pytest.raises(WebserviceException, match="Versions of an endpoint are services"):
        service.create_version("v2")
    assert "az container logs" in service.get_logs()
    assert (service.state, service.scoring_uri, service.error) == ("Packaged", None, None)
    assert repr(service).startswith("AciWebservice(workspace=")
    service.delete()
    with pytest.raises(WebserviceException, match=r"wait_for_deployment\(\) when service is Del"):
        service.wait_for_deployment()


def test_a_cluster_is_a_name(deploy: Deploy, ws: Workspace) -> None:
    """With no configuration it is Kubernetes'; only Kubernetes has one."""
    cluster = AksCompute(ws, "myaks")
    service = deploy("one", None, deployment_target=cluster)
    assert isinstance(service, AksWebservice)
    assert "--name myaks" in (service.files / files.COMMANDS).read_text()
    other = AKS(compute_target_name="other")
    text = (deploy("two", other, deployment_target=cluster).files / files.COMMANDS).read_text()
    assert "--name other" in text
    for said, target in ((ACI(), cluster), (AKS(), "myaks")):
        with pytest.raises(WebserviceException, match="cannot be deployed to with a config"):
            deploy("three", said, deployment_target=target)
    for make in (AksCompute.provisioning_configuration, AksCompute.attach_configuration):
        with pytest.raises(ComputeTargetException, match="az aks create"):
            make()


def test_a_local_service_goes_to_the_cloud(
    ws: Workspace, config: InferenceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolution, "check", lambda *_: ())
    local = Model.deploy(ws, "local", [], config, LocalWebservice.deploy_configuration())
    try:
        assert isinstance(local, LocalWebservice)
        service = local.deploy_to_cloud("cloud", AKS())
        assert isinstance(service, AksWebservice)
        assert sorted(ws.webservices) == ["cloud", "local"]
    finally:
        local.delete()


def test_what_would_be_deployed_is_printed(
    config: InferenceConfig, ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    Model.print_configuration([], config, AKS(primary_key=KEY), AksCompute(ws, "myaks"))
    Model.print_configuration([])
    AKS(primary_key=KEY).print_deploy_configuration()
    out = capsys.readouterr().out
    assert "score.py" in out and "myaks" in out and "Aks(" in out and "on this machine" in out
    assert KEY not in out


# --- profiles -------------------------------------------------------------------------------------


def profiled(ws: Workspace, script: str, tmp_path: Path, dataset: Any, **more: Any) -> Any:
    path = tmp_path / "profiled" / "score.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(script)
    config = InferenceConfig(entry_script=str(path), environment=Environment("env"))
    return Model.profile(ws, "profile", [], config, dataset, **more)


BUSY = """
import time

def init():
    global held
    held = bytearray(150_000_000)

def run(data):
    if "no" in data:
        raise ValueError(data)
    until = time.perf_counter() + 0.02
    while time.perf_counter() < until:
        pass
    return data
"""


@pytest.fixture
def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "check", lambda *_: ())


@pytest.mark.usefixtures("without_pip")
def test_a_profile_measures_what_the_script_takes(ws: Workspace, tmp_path: Path) -> None:
    """20 ms of a processor for each, and 150 MB that it holds."""
    profile = profiled(ws, BUSY, tmp_path, ["a", {"b": 1}], description="Busy")
    details = profile.get_details()
    assert (profile.state, profile.description) == ("Succeeded", "Busy")
    assert 20 <= details["latencyPercentile50InMs"] < 500
    assert profile.latency_percentile_50_in_ms == details["latencyPercentile50InMs"]
    assert 0.3 < profile.max_utilized_cpu < 1.5
    assert 0.15 < profile.max_utilized_memory < 0.6
    assert profile.recommended_memory >= profile.max_utilized_memory
    assert profile.recommended_cpu * 10 == int(profile.recommended_cpu * 10)
    with pytest.raises(AttributeError, match="no attribute 'recommended_gpu'"):
        _ = profile.recommended_gpu


@pytest.mark.usefixtures("without_pip")
def test_a_profile_says_what_went_wrong(ws: Workspace, tmp_path: Path) -> None:
    """Some inputs, all, memory, or the model: as a warning, and in ``error``."""
    some = profiled(ws, BUSY, tmp_path, ["yes", "no"], memory_in_gb=0.1, cpu=0.1)
    assert (some.state, some.success_rate, some.recommended_cpu) == ("Succeeded", 0.5, 0.1)
    message = some.error["message"]
    assert "10 of 20 inputs were not answered 200, as: 500" in message
    assert "memory_in_gb is 0.1, and 0." in message
    with pytest.warns(UserWarning, match="10 of 20"):
        some.wait_for_completion()
    none = profiled(ws, BUSY, tmp_path, ["no"])
    assert (none.state, none.recommended_cpu) == ("Failed", None)
    broken = profiled(ws, "def init(): raise ValueError('why')\ndef run(a): ...", tmp_path, [1])
    assert broken.state == "Failed" and "why" in broken.error["message"]
    assert "recommendedCpu" not in broken.get_details()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"input_dataset": []}, "input_dataset has no rows"),
        ({"input_dataset": "[1]"}, "input_dataset is a str; expected is a list"),
        ({"input_dataset": 1}, "input_dataset is a int"),
        ({"input_dataset": [object()]}, "cannot be turned to JSON"),
        ({"input_dataset": [1], "cpu": 4}, "cpu is 4. Allowed: 0.1 to 3.5"),
        ({"input_dataset": [1], "memory_in_gb": 16}, "memory_in_gb is 16. Allowed: 0.1 to 15.0"),
    ],
)
def test_what_cannot_be_profiled(
    given: dict[str, Any], says: str, ws: Workspace, config: InferenceConfig
) -> None:
    with pytest.raises(WebserviceException, match=says):
        Model.profile(ws, "profile", [], config, **given)


def test_a_table_has_one_column(ws: Workspace, config: InferenceConfig) -> None:
    """Also one that only turns into a table, as those of Azure ML do."""
    import pandas as pd

    class Tabular:
        def to_pandas_dataframe(self) -> pd.DataFrame:
            return pd.DataFrame({"a": ["1"], "b": ["2"]})

    with pytest.raises(WebserviceException, match="has 2 columns; expected is one"):
        Model.profile(ws, "profile", [], config, Tabular())
