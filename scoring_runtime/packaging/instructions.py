"""What to do with a build context: build it, try it, deploy it, send it an input.

Source of the ``az`` commands: https://learn.microsoft.com/cli/azure/reference-index
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

from .specification import FUNCTIONS, ROOTS, SOURCE, Context, moved

_SAMPLE = "sample_input.json"
_OF_THE_IMAGE = frozenset({"PYTHONPATH", "SCORING_AUTH_LEVEL", "SCORING_TRIGGERS"})
_RAW = re.compile(r"^\s*@(\w+\.)*rawhttp\b", re.MULTILINE)
_GROUP = "--resource-group scoring"
_CREDENTIALS = (
    "--registry-username $REGISTRY --registry-password "
    "\"$(az acr credential show --name $REGISTRY --query 'passwords[0].value' -o tsv)\""
)
_HOST_STORAGE = "AzureWebJobsStorage"
_STORAGE_KEY = (
    f"$(az storage account show-connection-string --name $STORAGE {_GROUP} "
    "--query connectionString -o tsv)"
)
_BUS_KEY = (
    f"$(az servicebus namespace authorization-rule keys list --namespace-name $NAMESPACE {_GROUP} "
    "--name RootManageSharedAccessKey --query primaryConnectionString -o tsv)"
)


class Section(NamedTuple):
    """Commands under a title; a line that begins with # is a remark."""

    title: str
    lines: tuple[str, ...]


def sections(context: Context, image: str, *, built: bool = False) -> list[Section]:
    """The steps from a context to a running service and its first answer."""
    found = [
        Section("Try it here without an image", tuple(_locally(context))),
        Section("Try the image", tuple(_run(context, image))),
        Section("Deploy to Azure", tuple(_deploy(context, _without_host(image)))),
        *(_trigger(context, trigger) for trigger in context.triggers or ("http",)),
    ]
    of_both = f"--target {context.target} -t {image} {_folder(context)}"
    build = (
        f"docker build {of_both}",
        "# the same with podman, or with buildah:",
        f"buildah bud --format docker {of_both}",
    )
    return found if built else [Section("Build", build), *found]


def text(found: list[Section]) -> str:
    """The sections as they are printed."""
    blocks = [f"{each.title}\n" + "\n".join(f"  {line}" for line in each.lines) for each in found]
    return "\n\n".join(blocks)


def _folder(context: Context) -> str:
    return shlex.quote(str(context.path))


def _locally(context: Context) -> Iterator[str]:
    functions = context.target == FUNCTIONS
    host = " uvicorn httptools" if functions else ""
    yield f"cd {_folder(context)}"
    yield f"pip install -r requirements.txt{host}   # in an environment of its own"
    if not functions and "AZUREML_ENTRY_SCRIPT" in context.settings:
        yield f"cd {SOURCE}   # as in the image"
    given = context.settings
    kept = {name: value for name, value in given.items() if name not in _OF_THE_IMAGE}
    settings = moved(kept, ROOTS[context.target], str(context.path))
    settings["PYTHONPATH"] = ":".join(filter(None, [given.get("PYTHONPATH"), str(context.path)]))
    words = "".join(f"{name}={shlex.quote(value)} " for name, value in settings.items())
    yield f"{words}python -m scoring_runtime serve"
    yield f"{_post(context)} http://localhost:5001{_path(context)}   # in another terminal"
    if functions:
        yield "# or, with Azure Functions Core Tools and the packages: func start"


def _run(context: Context, image: str) -> Iterator[str]:
    functions, http = context.target == FUNCTIONS, "http" in (context.triggers or ("http",))
    given = "".join(f'-e "{each.name}=${each.name}" ' for each in context.required)
    # A container of Functions has no keys of its own until its storage does.
    key = "-e SCORING_AUTH_LEVEL=anonymous " if functions and http else ""
    port, inside = (8080, 80) if functions else (5001, 5001)
    yield f"docker run --rm -p {port}:{inside} {key}{given}{image}"
    if http:
        yield f"{_post(context)} http://localhost:{port}{_path(context)}"


def _trigger(context: Context, trigger: str) -> Section:
    settings = context.settings
    if trigger == "blob":
        source = settings.get("BLOB_INPUT_PATH", "input/{blobname}.json")
        output = settings.get("BLOB_OUTPUT_PATH", "output/{blobname}_out.json")
        return Section(f"Blob: {source} → {output}", tuple(_blob(context, source, output)))
    if trigger == "service_bus":
        source = settings.get("SERVICEBUS_INPUT_QUEUE", "input")
        output = settings.get("SERVICEBUS_OUTPUT_QUEUE", "output")
        to = f"queue {output}" if output else "the message's reply_to only"
        create = f"--namespace-name $NAMESPACE {_GROUP}"
        queues = filter(None, dict.fromkeys((source, output)))
        lines = (f"az servicebus queue create --name {shlex.quote(q)} {create}" for q in queues)
        return Section(f"Service Bus: queue {source} → {to}", tuple(lines))
    path = _path(context)
    return Section(f"HTTP: POST {path}", tuple(_http(context, path)))


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
    functions, bus = context.target == FUNCTIONS, "service_bus" in context.triggers
    names = "REGISTRY=myregistry STORAGE=mystorage" + " APP=myapp" * functions
    yield "az login"
    yield f"{names}{' NAMESPACE=mynamespace' * bus}   # names that nobody else has"
    yield "az group create --name scoring --location westeurope"
    yield f"az acr create --name $REGISTRY {_GROUP} --sku Basic --admin-enabled true"
    built = f"--image {image} --target {context.target} {_folder(context)}"
    yield f"az acr build --registry $REGISTRY {built}"
    if functions or "blob" in context.triggers:
        yield f"az storage account create --name $STORAGE {_GROUP} --sku Standard_LRS"
    settings = [each for each in context.required if each.name != _HOST_STORAGE or not functions]
    for each in settings:  # as variables of the shell, by the names of the settings
        if "storage account" in each.about:
            yield f"{each.name}={_STORAGE_KEY}"
        elif "Service Bus" in each.about:
            yield f"az servicebus namespace create --name $NAMESPACE {_GROUP} --sku Standard"
            yield f"{each.name}={_BUS_KEY}"
        else:
            yield f"{each.name}=…   # it is not in the package"
    given = " ".join(f'"{each.name}=${each.name}"' for each in settings)
    yield from (_functions if functions else _container)(f"$REGISTRY.azurecr.io/{image}", given)


def _functions(image: str, settings: str) -> Iterator[str]:
    yield f"az appservice plan create --name scoring {_GROUP} --sku B1 --is-linux"
    yield (
        f"az functionapp create --name $APP {_GROUP} --plan scoring --storage-account $STORAGE "
        f"--functions-version 4 --image {image} {_CREDENTIALS}"
    )
    if settings:
        yield f"az functionapp config appsettings set --name $APP {_GROUP} --settings {settings}"
    yield "# a new image later:"
    yield f"az functionapp config container set --name $APP {_GROUP} --image {image}"


def _container(image: str, settings: str) -> Iterator[str]:
    given = f" --secure-environment-variables {settings}" if settings else ""
    yield (
        f"az container create --name scoring {_GROUP} --image {image} "
        f"--os-type Linux --cpu 1 --memory 2 --ports 5001 --ip-address Public {_CREDENTIALS}{given}"
    )
    yield "# AKS, IoT Edge: the same image; port 5001, probes /health/live and /health/ready"


def _http(context: Context, path: str) -> Iterator[str]:
    post = _post(context)
    if context.target != FUNCTIONS:
        yield f"ADDRESS=$(az container show --name scoring {_GROUP} --query ipAddress.ip -o tsv)"
        yield f"{post} http://$ADDRESS:5001{path}   # nobody is asked for a key there"
    elif context.settings.get("SCORING_AUTH_LEVEL", "function") == "anonymous":
        yield f"{post} https://$APP.azurewebsites.net{path}"
    else:
        yield "# the key is there once the app has started:"
        keys = f"az functionapp keys list --name $APP {_GROUP}"
        yield f"KEY=$({keys} --query functionKeys.default -o tsv)"
        yield f'{post} "https://$APP.azurewebsites.net{path}?code=$KEY"'


def _blob(context: Context, source: str, output: str) -> Iterator[str]:
    """Containers, an input, and its result."""
    setting = context.settings.get("BLOB_CONNECTION") or "TriggerConnectionString"
    connection = f'--connection-string "${setting}"'
    (given, _, asked), (to, _, result) = (
        path.lstrip("/").replace("{blobname}", "first").partition("/") for path in (source, output)
    )
    for each in dict.fromkeys((given, to)):
        yield f"az storage container create --name {shlex.quote(each)} {connection}"
    blobs = "az storage blob"
    place = f"--container-name {shlex.quote(given)} --name {shlex.quote(asked)}"
    yield f"{blobs} upload {place} --file {_sample(context)} {connection}"
    place = f"--container-name {shlex.quote(to)} --name {shlex.quote(result)}"
    yield f"{blobs} download {place} --file result.json {connection}"


def _without_host(image: str) -> str:
    """``host.example/net:1`` → ``net:1``: in Azure the registry is another.

    Source: https://github.com/distribution/reference
    """
    host, slash, name = image.partition("/")
    return name if slash and ("." in host or ":" in host or host == "localhost") else image
