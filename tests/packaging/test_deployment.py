"""The old deployment configurations: what each argument makes of the files, or who refuses it.

The files are checked by Kubernetes' own schemas, by kubectl, and by the shapes that Microsoft
documents for Container Instances and IoT Edge; nothing is deployed.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from scoring_runtime.errors import PackagingError
from scoring_runtime.packaging.deployment import files
from scoring_runtime.packaging.deployment.configuration import Aci, Aks, Configuration, read
from scoring_runtime.packaging.dockerfile import USER
from scoring_runtime.packaging.specification import (
    Context,
    Environment,
    RequiredSetting,
    Specification,
)
from scoring_runtime.settings.settings import Settings, setting_fields
from tests.hosts.certificates import Authority
from tests.hosts.kubectl import kustomized

NEWEST = "1.33"
KEY, OTHER = "abcdefghijklmnop", "ponmlkjihgfedcba"
VAULT = {
    "cmk_vault_base_url": "https://v.vault.azure.net", "cmk_key_name": "k", "cmk_key_version": "1",
}  # fmt: skip
SUBNET: dict[str, Any] = {"vnet_name": "net", "subnet_name": "sub"}
# Named by SCORING_RECORD_CONNECTION, and by a test.
OTHERS = {"RecordConnectionString", "TOKEN"}


class Files:
    """What was made: documents by file, settings by name, values of secrets, commands."""

    def __init__(self, made: files.Made) -> None:
        self.path, self.names = made.path, made.files
        self.commands = (made.path / files.COMMANDS).read_text()
        self.secrets = files.read_secrets(made.path)
        texts = {name: (made.path / name).read_text() for name in made.files}
        self.documents: dict[str, Any] = {
            name: yaml.safe_load(text)  # JSON is YAML too
            for name, text in texts.items()
            if name.endswith((".yaml", ".json"))
        }

    def at(self, place: str) -> Any:
        """``file.yaml a.0.b`` → what is there; None if nothing is."""
        name, _, path = place.partition(" ")
        if name == "secrets":
            return self.secrets.get(path)
        found = self.documents.get(name)
        for each in path.split("."):
            if found is None:
                return None
            if isinstance(found, list):
                found = found[int(each)] if int(each) < len(found) else None
            else:
                found = found.get(each)
        return found

    @property
    def settings(self) -> dict[str, str]:
        """Settings in the files, without secrets."""
        if "kustomization.yaml" in self.documents:
            literals = self.at("kustomization.yaml configMapGenerator.0.literals") or []
            return dict(each.split("=", 1) for each in literals)
        given = self.at(f"{GROUP} {CONTAINER}.environmentVariables") or []
        return {each["name"]: each["value"] for each in given if "value" in each}


GROUP, CONTAINER = "container-group.yaml", "properties.containers.0.properties"
PODS = "deployment.yaml spec.template.spec.containers.0"
SCALER = "autoscaler.yaml spec"


def made(folder: Path, said: Configuration, target: str = "", **context: Any) -> Files:
    """The files beside a package that is not there."""
    package = Context(folder / "package", "standalone", ("http",), ("net:1",), {}, **context)
    target = target or said.compute_type
    return Files(files.make(files.Deployment("net", "net:1", target, said), package))


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Any]:
    """The arguments of TLS."""
    cert, key = Authority(tmp_path / "tls").issue("server")
    return {
        "ssl_enabled": True,
        "ssl_cert_pem_file": str(cert),
        "ssl_key_pem_file": str(key),
        "ssl_cname": "score.example.com",
    }


# --- every argument -------------------------------------------------------------------------------

# Of azureml-core 1.61.
OLD_ACI = {
    "cpu_cores", "memory_gb", "location", "auth_enabled", "ssl_enabled", "ssl_cert_pem_file",
    "ssl_key_pem_file", "ssl_cname", "enable_app_insights", "dns_name_label", "primary_key",
    "secondary_key", "collect_model_data", "cmk_vault_base_url", "cmk_key_name",
    "cmk_key_version", "vnet_name", "subnet_name", "tags", "properties", "description",
}  # fmt: skip
OLD_AKS = {
    "autoscale_enabled", "autoscale_min_replicas", "autoscale_max_replicas",
    "autoscale_refresh_seconds", "autoscale_target_utilization", "collect_model_data",
    "auth_enabled", "cpu_cores", "memory_gb", "cpu_cores_limit", "memory_gb_limit", "gpu_cores",
    "enable_app_insights", "scoring_timeout_ms", "replica_max_concurrent_requests",
    "max_request_wait_time", "num_replicas", "primary_key", "secondary_key", "period_seconds",
    "initial_delay_seconds", "timeout_seconds", "success_threshold", "failure_threshold",
    "namespace", "token_auth_enabled", "compute_target_name", "blobfuse_enabled", "tags",
    "properties", "description",
}  # fmt: skip

# The argument and its value, what else is given, and where which value is then: in a file, in
# secrets.env, among the settings (SETTING=), the packages of the image (+) or the commands ($).
Row = tuple[str, Any, dict[str, Any], dict[str, Any]]
ACI: list[Row] = [
    ("cpu_cores", 1.5, {}, {f"{GROUP} {CONTAINER}.resources.requests.cpu": 1.5}),
    ("memory_gb", 2, {}, {f"{GROUP} {CONTAINER}.resources.requests.memoryInGB": 2}),
    ("location", "northeurope", {}, {f"{GROUP} location": "northeurope"}),
    ("auth_enabled", True, {}, {
        f"{GROUP} {CONTAINER}.environmentVariables.0":
            {"name": "SCORING_KEYS", "secureValue": "${SCORING_KEYS}"},
    }),
    ("enable_app_insights", True, {}, {
        "AML_APP_INSIGHTS_ENABLED=": "true",
        "secrets APPLICATIONINSIGHTS_CONNECTION_STRING":
            "<the connection string of Application Insights>",
        "+azure-monitor-opentelemetry-exporter": True,
    }),
    ("dns_name_label", "net-1", {}, {f"{GROUP} properties.ipAddress.dnsNameLabel": "net-1"}),
    ("primary_key", KEY, {"auth_enabled": True, "secondary_key": OTHER},
        {"secrets SCORING_KEYS": f"primary:{KEY},secondary:{OTHER}"}),
    ("secondary_key", OTHER, {"auth_enabled": True, "primary_key": KEY},
        {"secrets SCORING_KEYS": f"primary:{KEY},secondary:{OTHER}"}),
    ("collect_model_data", True, {}, {
        "AML_MODEL_DC_STORAGE_ENABLED=": "true",
        "secrets SCORING_RECORD": "<https://ACCOUNT.blob.core.windows.net/CONTAINER>",
        "SCORING_RECORD_CONNECTION=": "RecordConnectionString",
        "secrets RecordConnectionString": "<the connection string of that account>",
        "+azure-storage-blob": True,
    }),
    *((name, value, VAULT, {f"{GROUP} properties.encryptionProperties.{key}": value})
        for name, key, value in (
            ("cmk_vault_base_url", "vaultBaseUrl", "https://w.vault.azure.net"),
            ("cmk_key_name", "keyName", "other"), ("cmk_key_version", "keyVersion", "2"))),
    *((name, "x", SUBNET, {
        f"{GROUP} properties.subnetIds.0.id": f"/subscriptions/${{SUBSCRIPTION}}/resourceGroups/"
            f"${{GROUP}}/providers/Microsoft.Network/virtualNetworks/{net}/subnets/{sub}",
    }) for name, net, sub in (("vnet_name", "x", "sub"), ("subnet_name", "net", "x"))),
    ("tags", {"a": "b", "n": 1}, {}, {f"{GROUP} tags": {"a": "b", "n": "1"}}),
    ("properties", {"a": "b"}, {"tags": {"c": "d"}}, {f"{GROUP} tags": {"a": "b", "c": "d"}}),
    ("description", "Prices", {}, {f"{GROUP} tags": {"description": "Prices"}}),
]  # fmt: skip
ABOUT = "deployment.yaml metadata.annotations"
AKS: list[Row] = [
    ("autoscale_enabled", False, {}, {SCALER: None, "deployment.yaml spec.replicas": 1}),
    ("autoscale_min_replicas", 2, {}, {f"{SCALER}.minReplicas": 2}),
    ("autoscale_max_replicas", 4, {}, {f"{SCALER}.maxReplicas": 4}),
    ("autoscale_refresh_seconds", 5, {}, {
        f"{SCALER}.behavior.scaleUp.policies.0.periodSeconds": 5,
        f"{SCALER}.behavior.scaleDown.policies.0.periodSeconds": 5,
    }),
    ("autoscale_target_utilization", 30, {},
        {f"{SCALER}.metrics.0.resource.target.averageUtilization": 30}),
    ("collect_model_data", True, {}, {"AML_MODEL_DC_STORAGE_ENABLED=": "true"}),
    ("auth_enabled", False, {}, {"secrets SCORING_KEYS": None, f"{PODS}.envFrom.1": None}),
    ("cpu_cores", 0.5, {}, {f"{PODS}.resources.requests.cpu": "500m"}),
    ("memory_gb", 1, {}, {f"{PODS}.resources.requests.memory": "1024Mi"}),
    ("cpu_cores_limit", 2, {}, {f"{PODS}.resources.limits.cpu": "2000m"}),
    ("memory_gb_limit", 2, {}, {f"{PODS}.resources.limits.memory": "2048Mi"}),
    ("gpu_cores", 1, {}, {f"{PODS}.resources.limits": {"nvidia.com/gpu": "1"}}),
    ("enable_app_insights", True, {}, {"AML_APP_INSIGHTS_ENABLED=": "true"}),
    ("scoring_timeout_ms", 1000, {}, {"SCORING_TIMEOUT_MS=": "1000"}),
    ("replica_max_concurrent_requests", 3, {}, {"SCORING_QUEUE_SIZE=": "3"}),
    ("max_request_wait_time", 500, {}, {"SCORING_TIMEOUT_MS=": "60500"}),
    ("num_replicas", 3, {}, {SCALER: None, "deployment.yaml spec.replicas": 3}),
    ("primary_key", KEY, {"secondary_key": OTHER},
        {"secrets SCORING_KEYS": f"primary:{KEY},secondary:{OTHER}"}),
    ("secondary_key", OTHER, {"primary_key": KEY},
        {"secrets SCORING_KEYS": f"primary:{KEY},secondary:{OTHER}"}),
    *((name, 7, {}, {f"{PODS}.livenessProbe.{key}": 7}) for name, key in (
        ("period_seconds", "periodSeconds"), ("initial_delay_seconds", "initialDelaySeconds"),
        ("timeout_seconds", "timeoutSeconds"), ("failure_threshold", "failureThreshold"))),
    ("namespace", "team-a", {}, {
        "kustomization.yaml namespace": "team-a", "namespace.yaml metadata.name": "team-a",
    }),
    ("token_auth_enabled", True, {}, {
        "secrets SCORING_ENTRA_TENANT": "<the id of the tenant>",
        "secrets SCORING_ENTRA_AUDIENCE": "<the id or URI of the service's registration>",
        "secrets SCORING_KEYS": None,
        "+pyjwt": True,
    }),
    ("compute_target_name", "myaks", {}, {"$--name myaks": True}),
    ("tags", {"a": "b"}, {}, {ABOUT: {"scoring-runtime/about": '{"a": "b"}'}}),
    ("properties", {"a": "b"}, {}, {ABOUT: {"scoring-runtime/about": '{"a": "b"}'}}),
    ("description", "P", {}, {ABOUT: {"scoring-runtime/about": '{"description": "P"}'}}),
]  # fmt: skip

# The arguments, and what the error says: the argument at fault and what takes its place.
REFUSED: list[tuple[type[Configuration], dict[str, Any], str]] = [
    (Aks, {"success_threshold": 2}, "success_threshold must be 1.*leave it out"),
    (Aks, {"blobfuse_enabled": True}, "blobfuse_enabled=True .* in the image"),
    (Aks, {"num_replicas": 2, "autoscale_enabled": True}, "num_replicas .* leave one out"),
    (Aks, {"num_replicas": 2, "autoscale_max_replicas": 3}, "^autoscale_max_replicas is for"),
    (Aks, {"autoscale_min_replicas": 11}, "autoscale_min_replicas is 11, above"),
    (Aks, {"auth_enabled": True, "token_auth_enabled": True}, "auth_enabled=False"),
    (Aks, {"auth_enabled": False, "primary_key": KEY}, "primary_key .* auth_enabled=True"),
    (Aks, {"primary_key": KEY, "secondary_key": KEY}, "must be two"),
    (Aks, {"cpu_cores": 1, "cpu_cores_limit": 0.5}, "cpu_cores_limit is 0.5, below"),
    (Aks, {"namespace": "-a"}, "namespace is '-a', .*none at the ends"),
    (Aks, {"namespace": "a" * 64}, "namespace is .*up to 63"),
    (Aks, {"autoscale_refresh_seconds": 1801}, "autoscale_refresh_seconds .* from 1 to 1800"),
    (Aks, {"gpu_cores": 0.5}, "gpu_cores is 0.5, .*a whole number"),
    (Aci, {"cpu_cores": True}, "cpu_cores is True, .* a number from 0.01"),
    (Aci, {"cpu_cores": "1"}, "cpu_cores is '1'"),
    (Aci, {"auth_enabled": "yes"}, "auth_enabled is 'yes', .*Allowed: true or false"),
    (Aci, {"auth_enabled": True, "primary_key": "short"}, "^primary_key is not .*16 or more"),
    (Aci, {"ssl_cname": "x.example"}, "ssl_cname is for ssl_enabled=True"),
    (Aci, {"ssl_enabled": True}, "needs ssl_cert_pem_file and ssl_key_pem_file and ssl_cname"),
    (Aci, {"cmk_key_name": "k"}, "cmk_vault_base_url and cmk_key_version must be given too"),
    (Aci, {"vnet_name": "n"}, "subnet_name must be given too"),
    (Aci, {**SUBNET, "dns_name_label": "net-1"}, "dns_name_label is for a public address"),
    (Aci, {"dns_name_label": "A"}, "dns_name_label is 'A'"),
    (Aci, {"tags": "a"}, "tags is 'a', .*names with texts"),
    (Aci, {"description": "a\nb"}, "description .*one line of text"),
]  # fmt: skip


def test_the_arguments_are_the_old_ones_and_each_is_tried() -> None:
    """None is missing, here or there."""
    assert {each.name for each in fields(Aci)} == OLD_ACI
    assert {each.name for each in fields(Aks)} == OLD_AKS
    tls = {name for name in OLD_ACI if name.startswith("ssl_")}
    assert {row[0] for row in ACI} | tls == OLD_ACI
    refused = {"success_threshold", "blobfuse_enabled"}
    assert {row[0] for row in AKS} | refused == OLD_AKS
    assert all(any(name in given for _, given, _ in REFUSED) for name in refused)


def seen(found: Files, said: Configuration, place: str) -> Any:
    if place.endswith("="):
        return found.settings.get(place[:-1])
    if place.startswith("+"):
        return any(each.startswith(place[1:]) for each in said.requirements)
    return place[1:] in found.commands if place[0] == "$" else found.at(place)


@pytest.mark.parametrize(
    ("kind", "row"),
    [*((Aci, row) for row in ACI), *((Aks, row) for row in AKS)],
    ids=lambda value: value[0] if isinstance(value, tuple) else value.compute_type,
)
def test_an_argument_makes_the_files_other(
    kind: type[Configuration], row: Row, tmp_path: Path
) -> None:
    """In the way its meaning says; without it they are not so."""
    name, value, more, expected = row
    without, said = kind(**more), kind(**{**more, name: value})
    before, found = made(tmp_path / "before", without), made(tmp_path / "after", said)
    for place, there in expected.items():
        assert seen(found, said, place) == there, place
        assert seen(before, without, place) != there, place
    validate(found)


def test_tls_of_container_instances(tls: dict[str, Any], tmp_path: Path) -> None:
    """A secret volume with both files, whose probes and address are https."""
    said = Aci(**tls)
    found = made(tmp_path, said)
    validate(found)
    assert found.settings["SCORING_TLS_CERT"] == "/tls/tls.crt"
    assert found.settings["SCORING_TLS_KEY"] == "/tls/tls.key"
    assert found.at(f"{GROUP} {CONTAINER}.volumeMounts.0.mountPath") == "/tls"
    assert found.at(f"{GROUP} properties.volumes.0.secret") == {
        "tls.crt": "${TLS_CERTIFICATE}",
        "tls.key": "${TLS_KEY}",
    }
    key = base64.b64decode(found.secrets["TLS_KEY"])
    assert key == Path(tls["ssl_key_pem_file"]).read_bytes()
    assert found.at(f"{GROUP} {CONTAINER}.livenessProbe.httpGet.scheme") == "https"
    assert "score.example.com is an A or CNAME record" in found.commands
    with pytest.raises(PackagingError, match=r"ssl_key_pem_file is .*, which is no PEM file"):
        (tmp_path / "no.key").write_text("no")
        Aci(**{**tls, "ssl_key_pem_file": str(tmp_path / "no.key")})
    with pytest.raises(PackagingError, match="not-there does not exist"):
        Aci(**{**tls, "ssl_cert_pem_file": "not-there"})


@pytest.mark.parametrize(("kind", "given", "says"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_cannot_be_is_refused(
    kind: type[Configuration], given: dict[str, Any], says: str
) -> None:
    """The error names the argument, what is allowed or takes its place, and no key."""
    with pytest.raises(PackagingError, match=says) as caught:
        kind(**given)
    assert KEY not in str(caught.value) and "short" not in str(caught.value)


def test_a_service_in_a_network_has_a_private_address(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [(SUBNET, "Private"), ({}, "Public")]
    for more, kind in cases:
        assert made(tmp_path, Aci(**more)).at(f"{GROUP} properties.ipAddress.type") == kind


def test_keys_are_shown_nowhere() -> None:
    said = Aks(primary_key=KEY, secondary_key=OTHER)
    assert KEY not in repr(said) and OTHER not in str(said.given)


# --- the files are valid --------------------------------------------------------------------------

_TEXT, _WHOLE, _OBJECT = {"type": "string"}, {"type": "integer"}, {"type": "object"}


def _closed(required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


_PORT = _closed("port", port=_WHOLE, protocol={"enum": ["TCP", "UDP"]})
_SCHEME = {"enum": ["http", "https"]}
_PROBE = _closed(
    "httpGet",
    httpGet=_closed("port", path=_TEXT, port=_WHOLE, scheme=_SCHEME),
    initialDelaySeconds=_WHOLE, periodSeconds=_WHOLE, failureThreshold=_WHOLE,
    successThreshold=_WHOLE, timeoutSeconds=_WHOLE,
)  # fmt: skip
_REQUESTS = _closed("memoryInGB cpu", memoryInGB={"type": "number"}, cpu={"type": "number"})
# https://learn.microsoft.com/azure/container-instances/container-instances-reference-yaml, and of
# https://learn.microsoft.com/azure/templates/microsoft.containerinstance/containergroups subnetIds
# and encryptionProperties.
CONTAINER_GROUP = _closed(
    "name apiVersion properties",
    name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"},
    apiVersion={"const": "2021-10-01"},
    type=_TEXT,
    location=_TEXT,
    tags={"type": "object", "additionalProperties": _TEXT},
    properties=_closed(
        "containers osType",
        containers=_list(_closed(
            "name properties",
            name=_TEXT,
            properties=_closed(
                "image resources",
                image=_TEXT,
                ports=_list(_PORT),
                environmentVariables=_list(
                    _closed("name", name=_TEXT, value=_TEXT, secureValue=_TEXT)
                ),
                resources=_closed("requests", requests=_REQUESTS),
                volumeMounts=_list(
                    _closed("name mountPath", name=_TEXT, mountPath=_TEXT,
                            readOnly={"type": "boolean"})
                ),
                livenessProbe=_PROBE,
                readinessProbe=_PROBE,
            ),
        )),
        imageRegistryCredentials=_list(
            _closed("server username", server=_TEXT, username=_TEXT, password=_TEXT)
        ),
        restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
        ipAddress=_closed(
            "ports type", ports=_list(_PORT), type={"enum": ["Public", "Private"]},
            dnsNameLabel=_TEXT,
        ),
        osType={"enum": ["Windows", "Linux"]},
        volumes=_list(
            _closed("name", name=_TEXT, secret={**_OBJECT, "additionalProperties": _TEXT})
        ),
        subnetIds=_list(_closed("id", id=_TEXT)),
        encryptionProperties=_closed(
            "vaultBaseUrl keyName keyVersion", vaultBaseUrl=_TEXT, keyName=_TEXT, keyVersion=_TEXT
        ),
    ),
)  # fmt: skip
_SETTINGS = _closed("image createOptions", image=_TEXT, createOptions=_TEXT)
_ALWAYS = {
    "type": {"const": "docker"}, "status": {"const": "running"},
    "restartPolicy": {"enum": ["always", "never", "on-failure", "on-unhealthy"]},
    "settings": _SETTINGS,
}  # fmt: skip
# https://learn.microsoft.com/azure/iot-edge/module-composition and module-edgeagent-edgehub.
EDGE = _closed("modulesContent", modulesContent={
    "type": "object",
    "required": ["$edgeAgent", "$edgeHub"],
    "properties": {
        "$edgeAgent": {"properties": {"properties.desired": _closed(
            "schemaVersion runtime systemModules modules",
            schemaVersion={"enum": ["1.0", "1.1"]},
            runtime=_closed("type settings", type={"const": "docker"}, settings=_OBJECT),
            systemModules=_closed(
                "edgeAgent edgeHub",
                edgeAgent=_closed("type settings", type={"const": "docker"}, settings=_SETTINGS),
                edgeHub=_closed("type status restartPolicy settings", **_ALWAYS),
            ),
            modules={"type": "object", "additionalProperties": _closed(
                "type status restartPolicy settings version", **_ALWAYS, version=_TEXT,
                env={"type": "object", "additionalProperties": _closed("value", value=_TEXT)},
            )},
        )}},
        "$edgeHub": {"properties": {"properties.desired": _closed(
            "schemaVersion routes storeAndForwardConfiguration",
            schemaVersion={"enum": ["1.0", "1.1"]},
            routes={"type": "object", "additionalProperties": {
                "type": "string", "pattern": r"^FROM /messages/\S+ INTO (\$upstream|Brokered.*)$",
            }},
            storeAndForwardConfiguration=_closed("timeToLiveSecs", timeToLiveSecs=_WHOLE),
        )}},
    },
})  # fmt: skip


def validate(found: Files) -> None:
    """By the schemas; every setting is one that the runtime takes."""
    for name, document in found.documents.items():
        if name == GROUP:
            jsonschema.validate(document, CONTAINER_GROUP)
        elif name.endswith(".json"):
            jsonschema.validate(document, EDGE)
        elif name != "kustomization.yaml":
            kubernetes_validate.validate(document, NEWEST, strict=True)
    Settings.from_environ(found.settings)
    ours = {str(each.metadata["name"]) for each in setting_fields()}
    assert found.settings.keys() <= ours
    assert {name for name in found.secrets if not name.startswith("TLS_")} <= ours | OTHERS
    text = "".join((found.path / name).read_text() for name in found.names if name != files.SECRETS)
    assert not any(value in text for value in found.secrets.values() if len(value) > 20)
    assert subprocess.run(["sh", "-n", str(found.path / "deploy.sh")]).returncode == 0
    if found.secrets:
        assert (found.path / files.SECRETS).stat().st_mode & 0o777 == 0o600


def test_what_is_wrong_is_found() -> None:
    """The schemas of this file refuse what the documents of Azure have not."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            {"name": "a", "apiVersion": "2021-10-01", "property": {}}, CONTAINER_GROUP
        )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"modulesContent": {"$edgeAgent": {}}}, EDGE)


def test_kubectl_makes_one_whole_of_the_manifests(tmp_path: Path) -> None:
    """Settings and secrets are found by the pods, in the namespace, and are Kubernetes' own."""
    said = Aks(namespace="team", gpu_cores=1, cpu_cores_limit=1, tags={"a": "b"}, primary_key=KEY)
    found = made(tmp_path, said, required=(RequiredSetting("TOKEN", "a secret"),))
    validate(found)
    whole = [*yaml.safe_load_all(kustomized(found.path))]
    for each in whole:
        kubernetes_validate.validate(each, NEWEST, strict=True)
    by_kind = {each["kind"]: each for each in whole}
    spaces = [each for each in whole if each["kind"] != "Namespace"]
    assert {each["metadata"]["namespace"] for each in spaces} == {"team"}
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == USER
    [container] = pod["containers"]
    names = {name: by_kind[name]["metadata"]["name"] for name in ("ConfigMap", "Secret")}
    assert [*(each["name"] for part in container["envFrom"] for each in part.values())] == [
        names["ConfigMap"], names["Secret"],
    ]  # fmt: skip
    keys = base64.b64decode(by_kind["Secret"]["data"]["SCORING_KEYS"]).decode()
    assert keys == found.secrets["SCORING_KEYS"] and keys.startswith(f"primary:{KEY},secondary:")
    labels = by_kind["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        by_kind["Service"]["spec"]["selector"],
        by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        by_kind["Deployment"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector and selector.items() <= labels.items()
    settings = Settings.from_environ(by_kind["ConfigMap"]["data"])
    seconds = pod["terminationGracePeriodSeconds"]
    assert seconds > settings.shutdown_seconds + 5


def test_iot_edge_gets_a_module_with_a_route_and_a_folder(tmp_path: Path) -> None:
    said = Aci(cpu_cores=0.5, memory_gb=1, auth_enabled=True, tags={"site": "a"})
    found = made(tmp_path, said, "iotedge")
    validate(found)
    content = found.at("deployment.template.json modulesContent")
    module = content["$edgeAgent"]["properties.desired"]["modules"]["net"]
    options = json.loads(module["settings"]["createOptions"])
    assert options["HostConfig"]["NanoCpus"] == 500_000_000
    assert options["HostConfig"]["Memory"] == 1024**3
    assert options["HostConfig"]["Binds"] == ["/var/lib/scoring:/drop"]
    assert options["Labels"] == {"site": "a"}
    assert module["env"]["SCORING_KEYS"] == {"value": "${SCORING_KEYS}"}
    environ = {name: each["value"] for name, each in module["env"].items()}
    settings = Settings.from_environ({**environ, "SCORING_KEYS": found.secrets["SCORING_KEYS"]})
    assert (settings.blob_input_folder, settings.triggers) == ("/drop/input", ("http", "blob"))
    routes = content["$edgeHub"]["properties.desired"]["routes"]
    assert routes == {"netToHub": "FROM /messages/modules/net/* INTO $upstream"}


@pytest.mark.parametrize(
    ("said", "target", "says"),
    [
        (Aci(dns_name_label="net-1"), "iotedge", "^dns_name_label is for aci, .*leave it out"),
        (Aks(namespace="a"), "iotedge", "^namespace is for aks, .*leave it out"),
        (Aci(), "aks", "is for aci, not for aks"),
        (Aks(), "acs", "There is no deployment target 'acs'. Allowed: aci, aks, iotedge"),
    ],
)
def test_a_configuration_for_another_target(
    said: Configuration, target: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(PackagingError, match=says):
        made(tmp_path, said, target)
    assert not [*tmp_path.iterdir()]


# --- secrets and commands -------------------------------------------------------------------------


def test_what_was_filled_in_stays(tmp_path: Path) -> None:
    """Keys that were made and values that were put in are there after the files are made again."""
    said = Aks(enable_app_insights=True)
    first = made(tmp_path, said)
    text = (first.path / files.SECRETS).read_text()
    (first.path / files.SECRETS).write_text(re.sub("<.*>", "InstrumentationKey=x", text))
    second = made(tmp_path, Aks(enable_app_insights=True, cpu_cores=1))
    assert second.secrets["SCORING_KEYS"] == first.secrets["SCORING_KEYS"]
    assert second.secrets["APPLICATIONINSIGHTS_CONNECTION_STRING"] == "InstrumentationKey=x"
    changed = made(tmp_path, Aks(primary_key=KEY))
    [_, secondary] = files.keys_of(first.secrets)
    assert files.keys_of(changed.secrets) == (KEY, secondary)
    validate(changed)


@pytest.mark.parametrize("said", [Aci(auth_enabled=True, ssl_enabled=None), Aks()])
def test_the_commands_put_the_secrets_in(said: Configuration, tmp_path: Path) -> None:
    """With stand-ins for az, kubectl and envsubst: what az is given is valid and has the key."""
    found = made(tmp_path, said, required=(RequiredSetting("TOKEN", "a secret"),))
    programs = tmp_path / "bin"
    programs.mkdir()
    given = tmp_path / "given"
    stand_ins = {
        "az": f'case "$*" in *create*) cat "${{@: -1}}" >> {given};; *) echo said-$2;; esac',
        "kubectl": f"case $1 in apply) cat > {given};; *) cat deployment.yaml;; esac",
        "envsubst": "python3 -c 'import os, re, sys; n = set(re.findall(r\"\\w+\", sys.argv[1]));"
        ' print(re.sub(r"\\$\\{(\\w+)\\}", lambda m: os.environ[m[1]] if m[1] in n else m[0], '
        "sys.stdin.read()))' \"$@\"",
    }  # fmt: skip
    for name, text in stand_ins.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    environ = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    run = ["sh", "deploy.sh"]
    done = subprocess.run(run, cwd=found.path, capture_output=True, text=True, env=environ)
    assert done.returncode and "the name of your registry" in done.stderr
    environ |= {"REGISTRY": "reg", "GROUP": "group", "CLUSTER": "cluster"}
    done = subprocess.run(run, cwd=found.path, capture_output=True, text=True, env=environ)
    assert done.returncode and "TOKEN=<a secret>" in done.stdout
    secrets = (found.path / files.SECRETS).read_text().replace("<a secret>", "1234")
    (found.path / files.SECRETS).write_text(secrets)
    subprocess.run(run, cwd=found.path, check=True, capture_output=True, env=environ)
    text = given.read_text()
    assert "reg.azurecr.io/net:1" in text
    if isinstance(said, Aci):
        group = yaml.safe_load(text)
        jsonschema.validate(group, CONTAINER_GROUP)
        variables = group["properties"]["containers"][0]["properties"]["environmentVariables"]
        assert {each["name"]: each.get("secureValue") for each in variables} == {
            "TOKEN": "1234",
            "SCORING_KEYS": found.secrets["SCORING_KEYS"],
        }
        assert not (found.path / "filled.yaml").exists()


def test_the_image_has_what_the_deployment_needs() -> None:
    said = Aks(enable_app_insights=True, token_auth_enabled=True, collect_model_data=True)
    given = Specification(target="standalone", environment=Environment(requirements=("numpy",)))
    lines = files.adapted(given, said).environment.requirements
    names = [re.split(r"[\[><=]", line)[0] for line in lines]
    assert names == [
        "numpy", "azure-monitor-opentelemetry-exporter", "pyjwt", "azure-storage-blob",
        "azure-identity", "aiohttp",
    ]  # fmt: skip
    with pytest.raises(PackagingError, match="is for --target standalone"):
        files.adapted(Specification(), said)


# --- deploymentconfig.json ------------------------------------------------------------------------


def test_a_file_of_each_kind(tmp_path: Path) -> None:
    """As the documentation of the old command line has them."""
    path = tmp_path / "deploymentconfig.json"
    path.write_text(json.dumps({
        "computeType": "aks",
        "autoScaler": {
            "autoscaleEnabled": True, "minReplicas": 1, "maxReplicas": 3,
            "refreshPeriodInSeconds": 1, "targetUtilization": 70,
        },
        "dataCollection": {"storageEnabled": True},
        "authEnabled": True,
        "containerResourceRequirements": {"cpu": 0.5, "memoryInGB": 1.0, "cpuLimit": 1},
        "livenessProbeRequirements": {"initialDelaySeconds": 20},
        "keys": {"primaryKey": KEY},
        "maxQueueWaitMs": 100, "maxConcurrentRequestsPerContainer": 2, "scoringTimeoutMs": 5000,
        "gpuCores": 0, "tags": {"a": "b"}, "namespace": "x",
    }))  # fmt: skip
    assert read(path) == Aks(
        autoscale_enabled=True, autoscale_min_replicas=1, autoscale_max_replicas=3,
        autoscale_refresh_seconds=1, autoscale_target_utilization=70, collect_model_data=True,
        auth_enabled=True, cpu_cores=0.5, memory_gb=1.0, cpu_cores_limit=1,
        initial_delay_seconds=20, primary_key=KEY, max_request_wait_time=100,
        replica_max_concurrent_requests=2, scoring_timeout_ms=5000, gpu_cores=0,
        tags={"a": "b"}, namespace="x",
    )  # fmt: skip
    path.write_text(json.dumps({
        "computeType": "ACI",
        "containerResourceRequirements": {"cpu": 0.5, "memoryInGB": 1.0},
        "authEnabled": True, "sslEnabled": False, "appInsightsEnabled": False,
        "dnsNameLabel": "net-1", "vnetName": None, "keys": None, "dataCollection": None,
        "location": "", "description": "", "sslCertificate": "",
    }))  # fmt: skip
    assert read(path) == Aci(
        cpu_cores=0.5, memory_gb=1.0, auth_enabled=True, ssl_enabled=False,
        enable_app_insights=False, dns_name_label="net-1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "computeType is None. Allowed: aci, aks"),
        ('{"computeType": "local", "port": 32267}', "computeType is 'local'.*serve --port"),
        ('{"computeType": 1}', "computeType is 1"),
        ('{"computeType": "aci", "numReplica": 1}', "there is no 'numReplica' for aci"),
        ('{"computeType": "aks", "numReplica": 1}', "Did you mean numReplicas?"),
        ('{"computeType": "aks", "autoScaler": {"min": 1}}', "there is no 'autoScaler.min'"),
        ('{"computeType": "aks", "autoScaler": 1}', "there is no 'autoScaler'"),
        ('{"computeType": "aci", "authEnabled": "no"}', "deploy.json: auth_enabled is 'no'"),
    ],
)
def test_a_file_that_cannot_be_used(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "deploy.json"
    path.write_text(text)
    with pytest.raises(PackagingError, match=re.escape(says) if "*" not in says else says):
        read(path)
