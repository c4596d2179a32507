"""The ``az`` commands that deploy an image, and those that send it an input.

Source: https://learn.microsoft.com/cli/azure/reference-index
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from .specification import FUNCTIONS, Context

_GROUP = "--resource-group scoring"
_NAMES = {
    FUNCTIONS: "REGISTRY=myregistry STORAGE=mystorage APP=myapp",
    "standalone": "REGISTRY=myregistry STORAGE=mystorage",
}
_CREDENTIALS = (
    "--registry-username $REGISTRY --registry-password "
    "\"$(az acr credential show --name $REGISTRY --query 'passwords[0].value' -o tsv)\""
)
_HOST_STORAGE = "AzureWebJobsStorage"


def deploy(context: Context, image: str) -> Iterator[str]:
    """From a subscription to the running image, with what its triggers need."""
    image, bus = _without_host(image), "service_bus" in context.triggers
    yield "az login"
    names = _NAMES[context.target] + (" NAMESPACE=mynamespace" if bus else "")
    yield f"{names}   # names that nobody else has"
    yield "az group create --name scoring --location westeurope"
    yield f"az acr create --name $REGISTRY {_GROUP} --sku Basic --admin-enabled true"
    yield (
        f"az acr build --registry $REGISTRY --image {image} --target {context.target} "
        f"{shlex.quote(str(context.path))}"
    )
    if context.target == FUNCTIONS or "blob" in context.triggers:
        yield f"az storage account create --name $STORAGE {_GROUP} --sku Standard_LRS"
    yield from _connections(context)
    if context.target == FUNCTIONS:
        yield from _functions(context, image)
    else:
        yield from _container(context, image)


def http(context: Context, path: str, post: str) -> Iterator[str]:
    """A request to what was deployed, by the command ``post`` without an address."""
    if context.target != FUNCTIONS:
        yield (f"ADDRESS=$(az container show --name scoring {_GROUP} --query ipAddress.ip -o tsv)")
        yield f"{post} http://$ADDRESS:5001{path}   # nobody is asked for a key there"
    elif context.settings.get("SCORING_AUTH_LEVEL", "function") == "anonymous":
        yield f"{post} https://$APP.azurewebsites.net{path}"
    else:
        yield "# the key is there once the app has started:"
        yield (
            f"KEY=$(az functionapp keys list --name $APP {_GROUP} "
            "--query functionKeys.default -o tsv)"
        )
        yield f'{post} "https://$APP.azurewebsites.net{path}?code=$KEY"'


def blob(context: Context, sample: str) -> Iterator[str]:
    """Containers, an input, and its result."""
    source, output = blob_paths_of(context)
    connection = f'--connection-string "${blob_setting(context)}"'
    containers = [_container_of(source), _container_of(output)]
    for each in dict.fromkeys(containers):
        yield f"az storage container create --name {shlex.quote(each)} {connection}"
    names = [path.lstrip("/").partition("/")[2] for path in (source, output)]
    given, result = (shlex.quote(each.replace("{blobname}", "first")) for each in names)
    inputs, outputs = map(shlex.quote, containers)
    yield (
        f"az storage blob upload --container-name {inputs} --name {given} --file {sample} "
        f"{connection}"
    )
    yield (
        f"az storage blob download --container-name {outputs} --name {result} --file result.json "
        f"{connection}"
    )


def service_bus(context: Context) -> Iterator[str]:
    """The queues."""
    for queue in filter(None, dict.fromkeys(queues_of(context))):
        yield (
            f"az servicebus queue create --name {shlex.quote(queue)} "
            f"--namespace-name $NAMESPACE {_GROUP}"
        )


def blob_paths_of(context: Context) -> tuple[str, str]:
    """Where inputs are taken from, and where results go."""
    settings = context.settings
    return (
        settings.get("BLOB_INPUT_PATH", "input/{blobname}.json"),
        settings.get("BLOB_OUTPUT_PATH", "output/{blobname}_out.json"),
    )


def queues_of(context: Context) -> tuple[str, str]:
    """Where messages are taken from, and where replies go; the latter may be empty."""
    settings = context.settings
    return (
        settings.get("SERVICEBUS_INPUT_QUEUE", "input"),
        settings.get("SERVICEBUS_OUTPUT_QUEUE", "output"),
    )


def blob_setting(context: Context) -> str:
    """The name of the setting with the storage connection."""
    return context.settings.get("BLOB_CONNECTION") or "TriggerConnectionString"


# --- parts ----------------------------------------------------------------------------------------


def _connections(context: Context) -> Iterator[str]:
    """The connection strings as variables of the shell, by the names of the settings."""
    required = {each.name: each.about for each in context.required}
    for name, about in required.items():
        if name == _HOST_STORAGE:
            continue
        if "storage account" in about:
            yield (
                f"{name}=$(az storage account show-connection-string --name $STORAGE {_GROUP} "
                "--query connectionString -o tsv)"
            )
        elif "Service Bus" in about:
            yield f"az servicebus namespace create --name $NAMESPACE {_GROUP} --sku Standard"
            yield (
                f"{name}=$(az servicebus namespace authorization-rule keys list "
                f"--namespace-name $NAMESPACE {_GROUP} --name RootManageSharedAccessKey "
                "--query primaryConnectionString -o tsv)"
            )
        else:
            yield f"{name}=…   # it is not in the package"


def _functions(context: Context, image: str) -> Iterator[str]:
    yield f"az appservice plan create --name scoring {_GROUP} --sku B1 --is-linux"
    yield (
        f"az functionapp create --name $APP {_GROUP} --plan scoring --storage-account $STORAGE "
        f"--functions-version 4 --image $REGISTRY.azurecr.io/{image} {_CREDENTIALS}"
    )
    settings = [each.name for each in context.required if each.name != _HOST_STORAGE]
    if settings:
        given = " ".join(f'"{name}=${name}"' for name in settings)
        yield f"az functionapp config appsettings set --name $APP {_GROUP} --settings {given}"
    yield "# a new image later:"
    yield (
        f"az functionapp config container set --name $APP {_GROUP} "
        f"--image $REGISTRY.azurecr.io/{image}"
    )


def _container(context: Context, image: str) -> Iterator[str]:
    secure = " ".join(f'"{each.name}=${each.name}"' for each in context.required)
    given = f" --secure-environment-variables {secure}" if secure else ""
    yield (
        f"az container create --name scoring {_GROUP} --image $REGISTRY.azurecr.io/{image} "
        f"--os-type Linux --cpu 1 --memory 2 --ports 5001 --ip-address Public {_CREDENTIALS}{given}"
    )
    yield "# AKS, IoT Edge: the same image; port 5001, probes /health/live and /health/ready"


def _container_of(path: str) -> str:
    return path.lstrip("/").partition("/")[0]


def _without_host(image: str) -> str:
    """``host.example/net:1`` → ``net:1``: in Azure the registry is another.

    Source: https://github.com/distribution/reference
    """
    host, slash, name = image.partition("/")
    return name if slash and ("." in host or ":" in host or host == "localhost") else image
