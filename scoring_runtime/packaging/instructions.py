"""What to do with a build context: build it, try it, deploy it, by trigger."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import NamedTuple

from .specification import FUNCTIONS, MODELS, SOURCE, Context

_GROUP = "--resource-group scoring"
_SAMPLE = "sample_input.json"


class Section(NamedTuple):
    """Commands under a title; a line that begins with # is a remark."""

    title: str
    lines: tuple[str, ...]


def sections(context: Context, image: str, *, built: bool = False) -> list[Section]:
    """The steps from a context to a running service; ``<names>`` are for the reader to choose."""
    found = [] if built else [Section("Build", _build(context, image))]
    found.append(Section("Try it here without an image", _locally(context)))
    found.append(Section("Try the image", tuple(_run(context, image))))
    for trigger in context.triggers or ("http",):
        found.append(Section(*_TRIGGERS[trigger](context)))
    found.append(Section("Deploy", tuple(_deploy(context, image))))
    return found


def text(found: list[Section]) -> str:
    """The sections as they are printed."""
    blocks = [f"{each.title}\n" + "\n".join(f"  {line}" for line in each.lines) for each in found]
    return "\n\n".join(blocks)


def _folder(context: Context) -> str:
    return shlex.quote(str(context.path))


def _build(context: Context, image: str) -> tuple[str, ...]:
    folder = _folder(context)
    return (
        f"docker build -t {image} {folder}",
        "# the same with podman, or with buildah:",
        f"buildah bud --format docker -t {image} {folder}",
    )


def _locally(context: Context) -> tuple[str, ...]:
    paths = {name: value for name, value in context.settings.items() if name.startswith("AZUREML_")}
    options = []
    if "AZUREML_ENTRY_SCRIPT" in paths:
        options.append(
            f"--entry-script {shlex.quote(f'{SOURCE}/' + paths['AZUREML_ENTRY_SCRIPT'])}"
        )
    if "AZUREML_MODEL_DIR" in paths:
        inside = paths["AZUREML_MODEL_DIR"].partition(f"/{MODELS}")[2]
        options.append(f"--model-dir {shlex.quote(MODELS + inside)}")
    return (
        f"cd {_folder(context)} && python -m scoring_runtime serve {' '.join(options)}",
        "# needs the packages of requirements.txt; with Functions Core Tools also: func start",
    )


def _run(context: Context, image: str) -> Iterator[str]:
    given = " ".join(f'-e "{each.name}=${each.name}"' for each in context.required)
    if context.target == FUNCTIONS:
        # A container has no keys of its own until its storage does.
        key = "-e SCORING_AUTH_LEVEL=anonymous " if "http" in context.triggers else ""
        yield f"docker run --rm -p 8080:80 {key}{given} {image}"
    else:
        space = f"{given} " if given else ""
        yield f"docker run --rm -p 5001:5001 {space}{image}"


def _http(context: Context) -> tuple[str, tuple[str, ...]]:
    functions = context.target == FUNCTIONS
    port = 8080 if functions else 5001
    post = f"curl -H 'Content-Type: application/json' -d @{_SAMPLE}"
    lines = [f"{post} http://localhost:{port}/score"]
    if functions and context.settings.get("SCORING_AUTH_LEVEL", "function") != "anonymous":
        lines += [
            "# in Azure with a key:",
            f"KEY=$(az functionapp keys list --name <app> {_GROUP} "
            "--query functionKeys.default -o tsv)",
            f'{post} "https://<app>.azurewebsites.net/score?code=$KEY"',
        ]
    elif functions:
        lines.append(f"{post} https://<app>.azurewebsites.net/score")
    return "HTTP: POST /score", tuple(lines)


def _blob(context: Context) -> tuple[str, tuple[str, ...]]:
    source = context.settings.get("BLOB_INPUT_PATH", "input/{blobname}.json")
    output = context.settings.get("BLOB_OUTPUT_PATH", "output/{blobname}_out.json")
    account = context.settings.get("BLOB_CONNECTION") or "TriggerConnectionString"
    connection = f'--connection-string "${account}"'
    containers = dict.fromkeys(path.lstrip("/").partition("/")[0] for path in (source, output))
    name = source.lstrip("/").partition("/")[2]
    example = name.replace("{blobname}", "sample_input")
    lines = [
        f"az storage container create --name {shlex.quote(each)} {connection}"
        for each in containers
    ]
    container = next(iter(containers))
    lines.append(
        f"az storage blob upload --container-name {shlex.quote(container)} "
        f"--name {shlex.quote(example)} --file {_SAMPLE} {connection}"
    )
    return f"Blob: {source} → {output}", tuple(lines)


def _service_bus(context: Context) -> tuple[str, tuple[str, ...]]:
    source = context.settings.get("SERVICEBUS_INPUT_QUEUE", "input")
    output = context.settings.get("SERVICEBUS_OUTPUT_QUEUE", "output")
    lines = tuple(
        f"az servicebus queue create --name {shlex.quote(queue)} "
        f"--namespace-name <namespace> {_GROUP}"
        for queue in dict.fromkeys((source, output))
        if queue
    )
    to = f"queue {output}" if output else "the message's reply_to only"
    return f"Service Bus: queue {source} → {to}", lines


def _deploy(context: Context, image: str) -> Iterator[str]:
    image = _without_host(image)
    yield "az group create --name scoring --location westeurope"
    yield f"az acr create --name <registry> {_GROUP} --sku Basic --admin-enabled true"
    yield f"az acr build --registry <registry> --image {image} {_folder(context)}"
    if context.target == FUNCTIONS:
        yield from _deploy_functions(context, image)
    else:
        yield from _deploy_container(context, image)


def _without_host(image: str) -> str:
    """``host.example/net:1`` → ``net:1``: in Azure the registry is another.

    Source: https://github.com/distribution/reference
    """
    host, slash, name = image.partition("/")
    return name if slash and ("." in host or ":" in host or host == "localhost") else image


def _deploy_functions(context: Context, image: str) -> Iterator[str]:
    yield f"az storage account create --name <storage> {_GROUP} --sku Standard_LRS"
    yield f"az appservice plan create --name scoring {_GROUP} --sku B1 --is-linux"
    yield (
        f"az functionapp create --name <app> {_GROUP} --plan scoring --storage-account <storage> "
        f"--functions-version 4 --image <registry>.azurecr.io/{image}"
    )
    settings = [each.name for each in context.required if each.name != "AzureWebJobsStorage"]
    if settings:
        given = " ".join(f'"{name}=${name}"' for name in settings)
        yield f"az functionapp config appsettings set --name <app> {_GROUP} --settings {given}"
    yield (
        f"az functionapp config container set --name <app> {_GROUP} "
        f"--image <registry>.azurecr.io/{image} --registry-server https://<registry>.azurecr.io "
        "--registry-username <registry> --registry-password "
        '"$(az acr credential show --name <registry> --query passwords[0].value -o tsv)"'
    )


def _deploy_container(context: Context, image: str) -> Iterator[str]:
    secure = " ".join(f'"{each.name}=${each.name}"' for each in context.required)
    given = f" --secure-environment-variables {secure}" if secure else ""
    yield (
        f"az container create --name scoring {_GROUP} --image <registry>.azurecr.io/{image} "
        "--os-type Linux --cpu 1 --memory 2 --ports 5001 --ip-address Public "
        "--registry-username <registry> --registry-password "
        f'"$(az acr credential show --name <registry> --query passwords[0].value -o tsv)"{given}'
    )
    yield "# AKS, IoT Edge: the same image; port 5001, probes /health/live and /health/ready"


_TRIGGERS = {"http": _http, "blob": _blob, "service_bus": _service_bus}
