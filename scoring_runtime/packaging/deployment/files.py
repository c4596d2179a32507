"""A package's deployment files: made in a folder beside it, secrets in a file of their own."""

from __future__ import annotations

import base64
import os
import secrets as random
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import PackagingError
from ..specification import STANDALONE, Context, Specification, deployment_folder
from . import manifests
from .configuration import Aci, Aks, Configuration

ACI, AKS, IOT_EDGE = TARGETS = ("aci", "aks", "iotedge")
SECRETS, COMMANDS = "secrets.env", "deploy.sh"
KEYS = "SCORING_KEYS"
_TLS = {"TLS_CERTIFICATE": "ssl_cert_pem_file", "TLS_KEY": "ssl_key_pem_file"}
USED_ON_DEVICES = frozenset((
    "cpu_cores", "memory_gb", "tags", "properties", "description", "auth_enabled",
    "token_auth_enabled", "primary_key", "secondary_key", "enable_app_insights",
    "collect_model_data", "scoring_timeout_ms", "replica_max_concurrent_requests",
    "max_request_wait_time",
))  # fmt: skip
"""Arguments that mean something for IoT Edge."""


@dataclass(frozen=True)
class Deployment:
    """What is deployed, and how: a name, an image without its registry, one of ``TARGETS``."""

    name: str
    image: str
    target: str
    configuration: Configuration


@dataclass(frozen=True)
class Made:
    """The folder with the files, their names, and the commands that deploy them."""

    path: Path
    files: tuple[str, ...]
    commands: tuple[str, ...]


def adapted(specification: Specification, said: Configuration) -> Specification:
    """The specification with the packages that the deployment needs in the image, without its
    certificate and key.

    Raises:
        PackagingError: it is for Azure Functions.
    """
    if specification.target != STANDALONE:
        raise PackagingError(
            "A deployment configuration is for --target standalone; a Functions app is deployed as "
            "the last lines of package say, or by deploy/azure/functions.bicep."
        )
    environment = specification.environment
    environment = replace(environment, requirements=(*environment.requirements, *said.requirements))
    apart = tuple(Path(said.of(name)) for name in _TLS.values() if said.of(name))
    return replace(specification, environment=environment, leave_out=apart)


def check_target(target: str, said: Configuration) -> None:
    """Raise PackagingError unless the configuration can be deployed there."""
    if target not in TARGETS:
        allowed = ", ".join(TARGETS)
        raise PackagingError(f"There is no deployment target {target!r}. Allowed: {allowed}.")
    if target == IOT_EDGE:
        for name in sorted(said.given.keys() - USED_ON_DEVICES):
            raise PackagingError(
                f"{name} is for {said.compute_type}, and a device of IoT Edge has none of it: leave"
                f" it out. Used are: {', '.join(sorted(USED_ON_DEVICES))}."
            )
    elif target != said.compute_type:
        raise PackagingError(
            f"The configuration is for {said.compute_type}, not for {target}: name the same "
            f"computeType in it, or --deployment-target {said.compute_type}."
        )


def make(
    deployment: Deployment, context: Context, variables: Mapping[str, str] | None = None
) -> Made:
    """Write the files beside the package, in place of those that were there.

    ``variables`` have the values of secrets, as far as they are known. What was put into
    ``secrets.env`` stays, the keys that were made too.

    Raises:
        PackagingError: the configuration is for another target, or they cannot be written.
    """
    check_target(deployment.target, deployment.configuration)
    folder = deployment_folder(context.path)
    known = {**read_secrets(folder), **(variables or {})}
    values = _secrets(deployment.configuration, context, known)
    commands = tuple(_commands(deployment, context, values))
    texts = {**_files(deployment, values), COMMANDS: "\n".join(["set -eu", *commands, ""])}
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        if values:
            _write_secrets(folder / SECRETS, values)
    except OSError as error:
        raise PackagingError(f"{folder} cannot be written: {error.strerror}.") from error
    return Made(folder, (*texts, *([SECRETS] if values else [])), commands)


def _files(deployment: Deployment, values: Mapping[str, str]) -> dict[str, str]:
    name, image = deployment.name, f"${{REGISTRY}}.azurecr.io/{deployment.image}"
    said, secret = deployment.configuration, [each for each in values if each[:4] != "TLS_"]
    if deployment.target == IOT_EDGE:
        return manifests.iot_edge(name, image, said, secret)
    if isinstance(said, Aks):
        return manifests.kubernetes(name, image, said, secret)
    assert isinstance(said, Aci)
    return manifests.container_group(name, image, said, secret)


# --- secrets --------------------------------------------------------------------------------------


def _secrets(said: Configuration, context: Context, known: Mapping[str, str]) -> dict[str, str]:
    """Values by name, ``<…>`` for what is to be filled in."""
    found = {**said.to_fill, **{each.name: f"<{each.about}>" for each in context.required}}
    found = {name: known.get(name, about) for name, about in found.items()}
    if said.asks_for_keys:
        there = keys_of(known) or (random.token_urlsafe(32), random.token_urlsafe(32))
        primary, secondary = said.of("primary_key"), said.of("secondary_key")
        found[KEYS] = f"primary:{primary or there[0]},secondary:{secondary or there[1]}"
    if said.of("ssl_enabled"):
        for name, argument in _TLS.items():
            found[name] = base64.b64encode(Path(said.of(argument)).read_bytes()).decode()
    return found


def keys_of(values: Mapping[str, str]) -> tuple[str, ...]:
    """The primary and the secondary key of what a secrets file has; nothing if there are none."""
    entries = filter(None, values.get(KEYS, "").split(","))
    return tuple(each.partition(":")[2] for each in entries)


def read_secrets(folder: Path) -> dict[str, str]:
    """The values in the secrets file of a deployment; nothing if there is none."""
    try:
        lines = (folder / SECRETS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {name: value for name, _, value in pairs}


def _write_secrets(path: Path, values: Mapping[str, str]) -> None:
    """For their owner's eyes only, as NAME=VALUE, the form of kubectl and docker."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())


# --- commands -------------------------------------------------------------------------------------


def _commands(deployment: Deployment, context: Context, values: Mapping[str, str]) -> Iterator[str]:
    """For a POSIX shell in the folder of the files."""
    build = f"--image {deployment.image} --target {STANDALONE} ../{shlex.quote(context.path.name)}"
    yield ": ${REGISTRY:?the name of your registry} ${GROUP:?the resource group}"
    if any(value.startswith("<") for value in values.values()):
        fill = "echo 'Fill in what is in <> there: secrets.env.' >&2; exit 1"
        yield f"if grep '=<' {SECRETS}; then {fill}; fi"
    yield f'az acr build --registry "$REGISTRY" {build}'
    if deployment.target == AKS:
        yield from _to_cluster(deployment.configuration)
        return
    yield (
        'REGISTRY_PASSWORD=$(az acr credential show --name "$REGISTRY" '
        "--query 'passwords[0].value' -o tsv)"
    )
    yield "SUBSCRIPTION=$(az account show --query id -o tsv)"
    yield "export REGISTRY REGISTRY_PASSWORD GROUP SUBSCRIPTION"
    if values:
        yield f"""while IFS= read -r line; do export "$line"; done < {SECRETS}"""
    names = ["REGISTRY", "REGISTRY_PASSWORD", "GROUP", "SUBSCRIPTION", *values]
    chosen = shlex.quote(" ".join(f"${{{name}}}" for name in names))
    edge = deployment.target == IOT_EDGE
    template = manifests.EDGE if edge else manifests.CONTAINER_GROUP
    filled = f"filled{Path(template).suffix}"
    yield "umask 077   # the next file holds secrets"
    yield f"envsubst {chosen} < {template} > {filled}"
    if edge:
        device = '--hub-name "${HUB:?the IoT hub}" --device-id "${DEVICE:?the device}"'
        yield f"az iot edge set-modules --content {filled} {device}"
    else:
        yield f'az container create --resource-group "$GROUP" --file {filled}'
    yield f"rm {filled}"
    if name := deployment.configuration.of("ssl_cname"):
        yield f"# in your domain's DNS: {name} is an A or CNAME record of the address above"


def _to_cluster(said: Configuration) -> Iterator[str]:
    cluster = said.of("compute_target_name")
    cluster = shlex.quote(cluster) if cluster else '"${CLUSTER:?the name of the cluster}"'
    yield f'az aks get-credentials --resource-group "$GROUP" --name {cluster}'
    yield "export REGISTRY"
    yield "kubectl kustomize . | envsubst '${REGISTRY}' | kubectl apply -f -"
