"""What to do with a build context: build it, try it, deploy it, send it an input.

Source of the ``az`` commands: https://learn.microsoft.com/cli/azure/reference-index
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

from .specification import FUNCTIONS, ROOTS, SOURCE, Context

_SAMPLE = "sample_input.json"
_OF_THE_IMAGE = frozenset({"PYTHONPATH", "SCORING_AUTH_LEVEL", "SCORING_TRIGGERS"})
_RAW = re.compile(r"^\s*@(\w+\.)*rawhttp\b", re.MULTILINE)
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


class Section(NamedTuple):
    """Commands under a title; a line that begins with # is a remark."""

    title: str
    lines: tuple[str, ...]


def sections(context: Context, image: str, *, built: bool = False) -> list[Section]:
    """The steps from a context to a running service and its first answer."""
    found = [] if built else [Section("Build", tuple(_build(context, image)))]
    found.append(Section("Try it here without an image", tuple(_locally(context))))
    found.append(Section("Try the image", tuple(_run(context, image))))
    found.append(Section("Deploy to Azure", tuple(_deploy(context, image))))
    for trigger in context.triggers or ("http",):
        found.append(_trigger(context, trigger))
    return found


def text(found: list[Section]) -> str:
    """The sections as they are printed."""
    blocks = [f"{each.title}\n" + "\n".join(f"  {line}" for line in each.lines) for each in found]
    return "\n\n".join(blocks)


def _folder(context: Context) -> str:
    return shlex.quote(str(context.path))


def _build(context: Context, image: str) -> Iterator[str]:
    yield f"docker build --target {context.target} -t {image} {_folder(context)}"
    yield "# the same with podman, or with buildah:"
    yield (f"buildah bud --format docker --target {context.target} -t {image} {_folder(context)}")


def _locally(context: Context) -> Iterator[str]:
    functions = context.target == FUNCTIONS
    host = " uvicorn httptools" if functions else ""
    yield f"cd {_folder(context)}"
    yield f"pip install -r requirements.txt{host}   # in an environment of its own"
    if not functions and "AZUREML_ENTRY_SCRIPT" in context.settings:
        yield f"cd {SOURCE}   # as in the image"
    root, given = ROOTS[context.target], context.settings
    here = re.compile(rf"\A{re.escape(root)}(?=/|\Z)")
    settings = {
        name: here.sub(lambda _: str(context.path), value)
        for name, value in given.items()
        if name not in _OF_THE_IMAGE
    }
    settings["PYTHONPATH"] = ":".join(filter(None, [given.get("PYTHONPATH"), str(context.path)]))
    words = "".join(f"{name}={shlex.quote(value)} " for name, value in settings.items())
    yield f"{words}python -m scoring_runtime serve"
    yield f"{_post(context)} http://localhost:5001{_path(context)}   # in another terminal"
    if functions:
        yield "# or, with Azure Functions Core Tools and the packages: func start"


def _run(context: Context, image: str) -> Iterator[str]:
    given = "".join(f'-e "{each.name}=${each.name}" ' for each in context.required)
    if context.target == FUNCTIONS:
        # A container has no keys of its own until its storage does.
        key = "-e SCORING_AUTH_LEVEL=anonymous " if "http" in context.triggers else ""
        yield f"docker run --rm -p 8080:80 {key}{given}{image}"
    else:
        yield f"docker run --rm -p 5001:5001 {given}{image}"
    if "http" in (context.triggers or ("http",)):
        port = 8080 if context.target == FUNCTIONS else 5001
        yield f"{_post(context)} http://localhost:{port}{_path(context)}"


def _trigger(context: Context, trigger: str) -> Section:
    if trigger == "blob":
        source, output = _blob_paths_of(context)
        lines = _blob(context, _sample(context))
        return Section(f"Blob: {source} → {output}", tuple(lines))
    if trigger == "service_bus":
        source, output = _queues_of(context)
        to = f"queue {output}" if output else "the message's reply_to only"
        lines = _service_bus(context)
        return Section(f"Service Bus: queue {source} → {to}", tuple(lines))
    path = _path(context)
    return Section(f"HTTP: POST {path}", tuple(_http(context, path, _post(context))))


def _post(context: Context) -> str:
    if _is_raw(context):
        return f"curl -H 'Content-Type: application/octet-stream' --data-binary @{_sample(context)}"
    return f"curl -H 'Content-Type: application/json' -d @{_sample(context)}"


def _is_raw(context: Context) -> bool:
    """Whether the script takes the body as it is, so that it need not be JSON."""
    script = context.path / SOURCE / context.settings.get("AZUREML_ENTRY_SCRIPT", "")
    return script.is_file() and bool(_RAW.search(script.read_text("utf-8", "replace")))


def _sample(context: Context) -> str:
    """The sample beside the script if one was packaged, else a name for an input of the user's."""
    if _SAMPLE in context.source_files:
        return shlex.quote(str(context.path / SOURCE / _SAMPLE))
    return "input.bin" if _is_raw(context) else "input.json"


def _path(context: Context) -> str:
    """Of several models without a script and without a default, the first by its name."""
    names = dict.fromkeys(model.partition(":")[0] for model in context.models)
    several = len(names) > 1 and "AZUREML_ENTRY_SCRIPT" not in context.settings
    if several and not context.settings.get("SCORING_DEFAULT_MODEL"):
        return f"/score/{quote(next(iter(names)))}"
    return "/score"


# --- Azure ----------------------------------------------------------------------------------------


def _deploy(context: Context, image: str) -> Iterator[str]:
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


def _http(context: Context, path: str, post: str) -> Iterator[str]:
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


def _blob(context: Context, sample: str) -> Iterator[str]:
    """Containers, an input, and its result."""
    source, output = _blob_paths_of(context)
    setting = context.settings.get("BLOB_CONNECTION") or "TriggerConnectionString"
    connection = f'--connection-string "${setting}"'
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


def _service_bus(context: Context) -> Iterator[str]:
    """The queues."""
    for queue in filter(None, dict.fromkeys(_queues_of(context))):
        yield (
            f"az servicebus queue create --name {shlex.quote(queue)} "
            f"--namespace-name $NAMESPACE {_GROUP}"
        )


def _blob_paths_of(context: Context) -> tuple[str, str]:
    """Where inputs are taken from, and where results go."""
    settings = context.settings
    return (
        settings.get("BLOB_INPUT_PATH", "input/{blobname}.json"),
        settings.get("BLOB_OUTPUT_PATH", "output/{blobname}_out.json"),
    )


def _queues_of(context: Context) -> tuple[str, str]:
    """Where messages are taken from, and where replies go; the latter may be empty."""
    settings = context.settings
    return (
        settings.get("SERVICEBUS_INPUT_QUEUE", "input"),
        settings.get("SERVICEBUS_OUTPUT_QUEUE", "output"),
    )


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
