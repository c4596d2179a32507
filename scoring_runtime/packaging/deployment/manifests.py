"""What is written for each target: its template, with what the configuration says.

``${NAME}`` in them is put in by ``envsubst``. Where their shapes are from:

- https://learn.microsoft.com/azure/container-instances/container-instances-reference-yaml and, for
  ``subnetIds`` and ``encryptionProperties``,
  https://learn.microsoft.com/azure/templates/microsoft.containerinstance/containergroups
- https://learn.microsoft.com/azure/iot-edge/module-composition
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .configuration import Aci, Aks, Configuration

CONTAINER_GROUP, EDGE = "container-group.yaml", "deployment.template.json"
_FILES = {
    "Deployment": "deployment.yaml",
    "Service": "service.yaml",
    "PodDisruptionBudget": "disruption-budget.yaml",
    "HorizontalPodAutoscaler": "autoscaler.yaml",
    "Kustomization": "kustomization.yaml",
}
_PROBE = ("period_seconds", "initial_delay_seconds", "timeout_seconds", "success_threshold",
          "failure_threshold")  # fmt: skip
_SUBNET = (
    "/subscriptions/${SUBSCRIPTION}/resourceGroups/${GROUP}/providers/Microsoft.Network"
    "/virtualNetworks/%s/subnets/%s"
)
_FILLED_IN = re.compile(r"(?<=: )(\$\{\w+\})$", re.MULTILINE)

Manifest = dict[str, Any]


def _template(file: str, name: str, image: str) -> list[Manifest]:
    import yaml

    text = (Path(__file__).parent / "templates" / file).read_text(encoding="utf-8")
    return [*yaml.safe_load_all(text.replace("NAME", name).replace("IMAGE", image))]


def _yaml(document: Manifest) -> str:
    import yaml

    # YAML's & and * are allowed, but az and people stumble over them.
    plain: Any = type("Plain", (yaml.SafeDumper,), {"ignore_aliases": lambda self, data: True})
    text: str = yaml.dump(document, Dumper=plain, sort_keys=False, allow_unicode=True)
    return _FILLED_IN.sub(r'"\1"', text)  # a text whatever is put in, 1234 too


# --- Container Instances --------------------------------------------------------------------------


def container_group(name: str, image: str, said: Aci, secrets: Sequence[str]) -> dict[str, str]:
    """The YAML of ``az container create --file``, by its file; ``secrets`` are names of settings.

    Files in a secret volume are base64.
    """
    [group] = _template("container-group.yaml", name, image)
    properties = group["properties"]
    container = properties["containers"][0]["properties"]
    group["location"] = said.location or group["location"]
    group["tags"] = said.labels
    plain = [{"name": each, "value": value} for each, value in said.settings.items()]
    secret = [{"name": each, "secureValue": f"${{{each}}}"} for each in secrets]
    container["environmentVariables"] = plain + secret
    requests = {"cpu": said.of("cpu_cores"), "memoryInGB": said.of("memory_gb")}
    container["resources"]["requests"] = requests
    if said.dns_name_label:
        properties["ipAddress"]["dnsNameLabel"] = said.dns_name_label
    if said.vnet_name:
        properties["ipAddress"]["type"] = "Private"
        properties["subnetIds"] = [{"id": _SUBNET % (said.vnet_name, said.subnet_name)}]
    if said.cmk_key_name:
        properties["encryptionProperties"] = {
            "vaultBaseUrl": said.cmk_vault_base_url,
            "keyName": said.cmk_key_name,
            "keyVersion": said.cmk_key_version,
        }
    if said.ssl_enabled:
        files = {"tls.crt": "${TLS_CERTIFICATE}", "tls.key": "${TLS_KEY}"}
        properties["volumes"] = [{"name": "tls", "secret": files}]
        container["volumeMounts"] = [{"name": "tls", "mountPath": "/tls", "readOnly": True}]
        for probe in ("livenessProbe", "readinessProbe"):
            container[probe]["httpGet"]["scheme"] = "https"
    return {CONTAINER_GROUP: _yaml(group)}


def address(said: Configuration) -> str:
    """Where it will answer, as far as that is known before; empty if it is not."""
    if not isinstance(said, Aci):
        return ""
    place = (said.location or "westeurope").replace(" ", "").lower()
    host = said.dns_name_label and f"{said.dns_name_label}.{place}.azurecontainer.io"
    host = said.ssl_cname or host
    return f"{'https' if said.ssl_enabled else 'http'}://{host}:5001" if host else ""


# --- Kubernetes -----------------------------------------------------------------------------------


def kubernetes(name: str, image: str, said: Aks, secrets: Sequence[str]) -> dict[str, str]:
    """The manifests by file, of which ``kustomization.yaml`` names the others."""
    found = {each["kind"]: each for each in _template("kubernetes.yaml", name, image)}
    _fill_pods(name, found["Deployment"], said, bool(secrets))
    if said.autoscales:
        found["HorizontalPodAutoscaler"]["spec"] |= _scaling(said)
    else:
        del found["HorizontalPodAutoscaler"]
        found["Deployment"]["spec"]["replicas"] = said.num_replicas or 1
    whole = found["Kustomization"]
    whole["resources"] = [_FILES[kind] for kind in found if kind != "Kustomization"]
    literals = [f"{each}={value}" for each, value in said.settings.items()]
    whole["configMapGenerator"][0]["literals"] = literals
    if secrets:
        whole["secretGenerator"] = [{"name": f"{name}-secrets", "envs": ["secrets.env"]}]
    texts = {_FILES[kind]: each for kind, each in found.items()}
    if said.namespace:
        whole["namespace"] = said.namespace
        whole["resources"].append("namespace.yaml")
        space = {"name": said.namespace}
        texts["namespace.yaml"] = {"apiVersion": "v1", "kind": "Namespace", "metadata": space}
    return {file: _yaml(each) for file, each in texts.items()}


def _fill_pods(name: str, deployment: Manifest, said: Aks, has_secrets: bool) -> None:
    if said.labels:
        about = json.dumps(said.labels, sort_keys=True)
        deployment["metadata"]["annotations"] = {"scoring-runtime/about": about}
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    if has_secrets:
        container["envFrom"].append({"secretRef": {"name": f"{name}-secrets"}})
    container["livenessProbe"] |= {_camel(each): said.of(each) for each in _PROBE}
    limits = {
        "cpu": said.cpu_cores_limit and _cores(said.cpu_cores_limit),
        "memory": said.memory_gb_limit and _memory(said.memory_gb_limit),
        "nvidia.com/gpu": said.gpu_cores and str(said.gpu_cores),
    }
    limits = {each: value for each, value in limits.items() if value}
    requests = {"cpu": _cores(said.of("cpu_cores")), "memory": _memory(said.of("memory_gb"))}
    container["resources"] = {"requests": requests, **({"limits": limits} if limits else {})}


def _scaling(said: Aks) -> Manifest:
    """By the processor; every ``autoscale_refresh_seconds`` it may change the number once more."""
    most, seconds = said.of("autoscale_max_replicas"), said.of("autoscale_refresh_seconds")
    target = {"type": "Utilization", "averageUtilization": said.of("autoscale_target_utilization")}
    policy = {"policies": [{"type": "Pods", "value": most, "periodSeconds": seconds}]}
    return {
        "minReplicas": said.of("autoscale_min_replicas"),
        "maxReplicas": most,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        "behavior": {"scaleUp": policy, "scaleDown": policy},
    }


def _cores(number: float) -> str:
    return f"{round(number * 1000)}m"


def _memory(gigabytes: float) -> str:
    return f"{round(gigabytes * 1024)}Mi"


def _camel(name: str) -> str:
    return re.sub("_(.)", lambda found: found[1].upper(), name)


# --- IoT Edge -------------------------------------------------------------------------------------


def iot_edge(name: str, image: str, said: Configuration, secrets: Sequence[str]) -> dict[str, str]:
    """The manifest of ``az iot edge set-modules --content``, by its file.

    The runtime sends no messages to the hub; a route is there for what the entry script sends.
    """
    [manifest] = _template("iot-edge.yaml", name, image)
    agent = manifest["modulesContent"]["$edgeAgent"]["properties.desired"]
    module = agent["modules"][name]
    options = module["settings"]["createOptions"]
    options["Labels"] = said.labels
    options["HostConfig"]["NanoCpus"] = round(said.of("cpu_cores") * 1_000_000_000)
    options["HostConfig"]["Memory"] = round(said.of("memory_gb") * 1024**3)
    variables = {**{each: f"${{{each}}}" for each in secrets}, **said.settings}
    module["env"] |= {each: {"value": value} for each, value in variables.items()}
    for each in (module, *agent["systemModules"].values()):
        each["settings"]["createOptions"] = json.dumps(each["settings"]["createOptions"])
    return {EDGE: json.dumps(manifest, indent=2) + "\n"}
