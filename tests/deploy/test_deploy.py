"""What is in deploy/: checked by kubectl, Kubernetes' and KEDA's schemas, docker-compose and
promtool; Bicep by a parser, which is no compiler: it does not know the properties of a resource."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pycep
import pytest
import yaml

from scoring_runtime.cli.main import EXIT_CANNOT_START, _parser
from scoring_runtime.cli.parser import EXIT_USAGE
from scoring_runtime.packaging.dockerfile import USER
from scoring_runtime.settings.settings import Settings, setting_fields
from scoring_runtime.telemetry.metrics import METRICS
from tests.hosts.compose import docker_compose
from tests.hosts.kubectl import kustomized
from tests.hosts.prometheus import promtool

ROOT = Path(__file__).parents[2]
DEPLOY, KUBERNETES = ROOT / "deploy", ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(each.name for each in (KUBERNETES / "overlays").iterdir())
KEDA = ("ScaledObject", "ScaledJob", "TriggerAuthentication")
SCHEMAS = ROOT.parent / "shared" / "schemas"
NEWEST = "1.33"
OURS = {str(each.metadata["name"]) for each in setting_fields()}
OURS |= {name for each in setting_fields() for name in each.metadata["also"]}
Manifest = dict[str, Any]


@cache
def manifests(overlay: str) -> list[Manifest]:
    text = kustomized(KUBERNETES / "overlays" / overlay)
    return [each for each in yaml.safe_load_all(text) if each]


def of_kind(overlay: str, kind: str) -> Manifest:
    [found] = [each for each in manifests(overlay) if each["kind"] == kind]
    return found


def pod_of(overlay: str) -> Manifest:
    spec: Manifest = of_kind(overlay, "Deployment")["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_every_manifest(overlay: str) -> None:
    """By its own schemas, unknown properties refused."""
    own = [each for each in manifests(overlay) if each["kind"] not in KEDA]
    assert len(own) >= 6
    for each in own:
        kubernetes_validate.validate(each, NEWEST, strict=True)


def test_a_wrong_manifest_is_refused() -> None:
    wrong = {**of_kind("cpu", "Deployment"), "spec": {"replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


@pytest.mark.parametrize("overlay", [each for each in OVERLAYS if each not in ("cpu",)])
def test_keda_takes_its_manifests(overlay: str) -> None:
    """By its CRDs where they are at hand, else by what KEDA's documentation asks of these kinds."""
    for each in (each for each in manifests(overlay) if each["kind"] in KEDA):
        assert each["apiVersion"] == "keda.sh/v1alpha1"
        path = SCHEMAS / f"keda.sh_{each['kind'].lower()}s.yaml"
        if path.exists():
            [version] = yaml.safe_load(path.read_text())["spec"]["versions"]
            schema = closed(version["schema"]["openAPIV3Schema"])
            jsonschema.validate(each, schema)
        if each["kind"] == "ScaledObject":
            assert each["spec"]["scaleTargetRef"]["name"] == "scoring"
            assert each["spec"]["minReplicaCount"] == 0
            for trigger in each["spec"]["triggers"]:
                assert {"type", "metadata", "authenticationRef"} == set(trigger)
                assert all(isinstance(value, str) for value in trigger["metadata"].values())


def closed(schema: Any) -> Any:
    """The schema without room for unknown properties."""
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(each) for name, each in schema.items()}
    if isinstance(found.get("properties"), dict) and "additionalProperties" not in found:
        names = set(found["properties"])
        if names - {"metadata"}:
            found["additionalProperties"] = False
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_the_pods_of_the_deployment_and_no_others(overlay: str) -> None:
    labels = of_kind(overlay, "Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        of_kind(overlay, "Deployment")["spec"]["selector"]["matchLabels"],
        of_kind(overlay, "Service")["spec"]["selector"],
        of_kind(overlay, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(
            each["labelSelector"]["matchLabels"]
            for each in pod_of(overlay)["topologySpreadConstraints"]
        ),
    ]
    for each in selectors:
        assert each and each.items() <= labels.items()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_nobodys_and_end_in_peace(overlay: str) -> None:
    pod = pod_of(overlay)
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == USER
    rights = container["securityContext"]
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert rights["readOnlyRootFilesystem"] is (overlay != "functions")
    said = of_kind(overlay, "ConfigMap")["data"]
    settings = Settings.from_environ(known(said))
    [_, seconds] = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > int(seconds) + settings.shutdown_seconds
    paths = {container[f"{each}Probe"]["httpGet"]["path"] for each in ("startup", "readiness")}
    assert paths == {"/health/ready"}
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def known(said: Manifest) -> Manifest:
    """Those that are settings of ours; every other is one of the Functions host's."""
    rest = {name for name in said if name not in OURS and "__" not in name}
    assert rest <= {"ASPNETCORE_URLS"}
    return {name: value for name, value in said.items() if name in OURS}


def test_the_autoscaler_asks_for_a_metric_that_is_there() -> None:
    [metric] = of_kind("queue-depth", "HorizontalPodAutoscaler")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in {each.name for each in METRICS}
    folder = KUBERNETES / "overlays" / "queue-depth"
    [rule] = yaml.safe_load((folder / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert rule["seriesQuery"].startswith(f"{name}{{")
    assert re.fullmatch(rule["name"]["matches"], name)


@pytest.mark.parametrize("overlay", ["keda-service-bus", "keda-blob"])
def test_scaler_and_pods_look_at_the_same_place(overlay: str) -> None:
    said = of_kind(overlay, "ConfigMap")["data"]
    [trigger] = of_kind(overlay, "ScaledObject")["spec"]["triggers"]
    metadata = trigger["metadata"]
    if overlay == "keda-blob":
        container, _, _ = said["BLOB_INPUT_PATH"].partition("/")
        assert metadata["blobContainerName"] == container
        uri = said["TriggerConnectionString__blobServiceUri"]
        assert uri == f"https://{metadata['accountName']}.blob.core.windows.net"
    else:
        assert metadata["queueName"] == said["SERVICEBUS_INPUT_QUEUE"]
        namespace = said["ServiceBusConnectionString__fullyQualifiedNamespace"]
        assert namespace == f"{metadata['namespace']}.servicebus.windows.net"


# --- compose --------------------------------------------------------------------------------------


def composed(file: Path) -> subprocess.CompletedProcess[str]:
    """What docker-compose makes of it; no docker is needed for that."""
    command = [docker_compose(), "--file", str(file), "config", "--format", "json"]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ})


def test_docker_compose_takes_the_file(tmp_path: Path) -> None:
    done = composed(DEPLOY / "compose" / "compose.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    services = yaml.safe_load(done.stdout)["services"]
    assert set(services) == {"scoring", "azurite", "redis", "prometheus", "grafana"}
    for each in services.values():
        assert all(port["host_ip"] == "127.0.0.1" for port in each.get("ports", ()))
        for volume in each.get("volumes", ()):
            assert volume["type"] == "volume" or Path(volume["source"]).is_file()
    assert set(services["scoring"]["environment"]) - OURS == {"TriggerConnectionString"}
    (tmp_path / "wrong.yaml").write_text("services: {a: {imag: b}}")
    wrong = composed(tmp_path / "wrong.yaml")
    assert wrong.returncode and "imag" in wrong.stderr


def test_promtool_takes_the_configuration_of_compose(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text((DEPLOY / "grafana" / "alerts.yml").read_text())
    config = tmp_path / "prometheus.yml"
    config.write_text((DEPLOY / "compose" / "prometheus.yaml").read_text())
    done = subprocess.run([promtool(), "check", "config", str(config)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


# --- Bicep ----------------------------------------------------------------------------------------

BICEP = sorted((DEPLOY / "azure").glob("*.bicep"))


@pytest.mark.parametrize("path", BICEP, ids=lambda path: path.name)
def test_bicep_is_well_formed_and_what_it_names_is_there(path: Path) -> None:
    """A check of the parser's level: names of parameters, variables, resources and outputs."""
    text = path.read_text()
    parsed: Any = pycep.BicepParser().parse(text=text)
    parts = ("parameters", "variables", "resources", "modules", "outputs")
    names = {name for part in parts for name in parsed.get(part, {})}
    roots = set(re.findall(r"\$\{(\w+)[.}]", text)) | set(re.findall(r"\bscope: (\w+)", text))
    assert roots - names - {"role"} == set()
    used = "\n".join(line for line in text.splitlines() if not line.startswith("param "))
    for name in parsed["parameters"]:
        assert re.search(rf"\b{name}\b", used), name
    for module in re.findall(r"module \w+ '([^']+)'", text):
        other: Any = pycep.BicepParser().parse(text=(path.parent / module).read_text())
        assert set(re.findall(r"shared\.outputs\.(\w+)", text)) <= set(other["outputs"])


def test_azure_is_reached_by_identities_alone() -> None:
    text = "\n".join(path.read_text() for path in BICEP)
    assert "allowSharedKeyAccess: false" in text and "disableLocalAuth: true" in text
    assert "accessKeysAuthentication: 'Disabled'" in text and "adminUserEnabled: false" in text
    # The one of Log Analytics, which Container Apps asks for.
    assert re.findall(r"listKeys\(\)\.(\w+)", text) == ["primarySharedKey"]
    assert "AccountKey" not in text and "SharedAccessKey" not in text


def test_every_setting_of_bicep_is_one() -> None:
    text = "\n".join(path.read_text() for path in BICEP)
    said = set(re.findall(r"name: '([A-Z][A-Z_]+)'", text))
    said |= set(re.findall(r"^ {4}([A-Z][A-Z_]+): ", text, re.MULTILINE))
    assert {"SCORING_TRIGGERS", "REDIS_HOST"} <= said
    azures = {"AZURE_CLIENT_ID", "FUNCTIONS_EXTENSION_VERSION"}
    assert said - OURS - azures - {"WEBSITES_ENABLE_APP_SERVICE_STORAGE", "SCORING_KEYS"} == set()


# --- batches --------------------------------------------------------------------------------------


@cache
def batch_manifests(name: str) -> list[Manifest]:
    text = kustomized(KUBERNETES / "batch" / name)
    return [each for each in yaml.safe_load_all(text) if each]


def _batch_pod(name: str) -> Manifest:
    kind = {"job": "Job", "keda": "ScaledJob"}[name]
    [found] = [each["spec"] for each in batch_manifests(name) if each["kind"] == kind]
    pod: Manifest = found.get("jobTargetRef", found)["template"]
    return pod


@pytest.mark.parametrize("name", ["job", "keda"])
def test_kubernetes_and_keda_take_the_batches(name: str) -> None:
    own = [each for each in batch_manifests(name) if each["kind"] not in KEDA]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "of-keda"}}
    own.append({**job, "spec": {"template": _batch_pod(name)}})
    for each in own:
        kubernetes_validate.validate(each, NEWEST, strict=True)
    for each in (each for each in batch_manifests(name) if each["kind"] in KEDA):
        path = SCHEMAS / f"keda.sh_{each['kind'].lower()}s.yaml"
        if path.exists():
            [version] = yaml.safe_load(path.read_text())["spec"]["versions"]
            jsonschema.validate(each, closed(version["schema"]["openAPIV3Schema"]))


@pytest.mark.parametrize("name", ["job", "keda"])
def test_the_pods_of_batches_are_nobodys_and_run_the_command(name: str) -> None:
    pod = _batch_pod(name)
    [container] = pod["spec"]["containers"]
    assert pod["spec"]["securityContext"]["runAsUser"] == USER
    assert pod["spec"]["restartPolicy"] == "Never"
    rights = container["securityContext"]
    assert rights["readOnlyRootFilesystem"] and rights["capabilities"] == {"drop": ["ALL"]}
    assert container["command"] == ["python", "-m", "scoring_runtime", "batch"]
    options = _parser(("batch",)).parse_args(["batch", *container["args"]])
    assert (options.input, options.output, options.error_threshold) == ("input", "output", -1)
    [said] = [each["data"] for each in batch_manifests(name) if each["kind"] == "ConfigMap"]
    known(said)
    # Without a limit of its own a pod sees the node's processors, and auto is all of them.
    assert said["WORKER_COUNT"] == container["resources"]["requests"]["cpu"]
    [policy] = [each for each in batch_manifests(name) if each["kind"] == "NetworkPolicy"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_a_job_ends_when_the_model_does_not_load_and_not_when_a_node_does() -> None:
    [job] = [each["spec"] for each in batch_manifests("job") if each["kind"] == "Job"]
    assert (job["completionMode"], job["completions"]) == ("Indexed", job["parallelism"])
    ignored, fatal = job["podFailurePolicy"]["rules"]
    assert ignored["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert fatal["onExitCodes"]["values"] == [EXIT_USAGE, EXIT_CANNOT_START]
