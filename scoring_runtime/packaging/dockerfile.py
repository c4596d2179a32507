"""The generated files of a build context: Dockerfile, ignore file, what the Functions host reads.

The Dockerfile is for docker, podman and buildah alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType

from ..errors import PackagingError
from ..release import VERSION
from ..settings.settings import Settings
from .lock import lock_name
from .specification import (
    DEFAULT_PYTHON,
    FUNCTIONS,
    MODELS,
    NOTES,
    ROOTS,
    SOURCE,
    STANDALONE,
    TARGETS,
    WHEELS,
    RequiredSetting,
    moved,
)

USER = 10001
"""User and group id in the standalone image."""
_NOTHING: Mapping[str, str] = MappingProxyType({})
_OLDEST_PYTHON = (3, 11)
_PYTHON = re.compile(r"(\d+)\.(\d+)(\.\d+)?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_LABELS = {
    "org.opencontainers.image.title": "scoring-runtime",
    "org.opencontainers.image.version": VERSION,
    "org.opencontainers.image.description": (
        "A trained model behind HTTP requests, dropped blobs and queue messages"
    ),
    "org.opencontainers.image.licenses": "MIT",
}
_COPIED = ("requirements.txt", "host.json", "function_app.py", "scoring_runtime")

_HEADER = """\
# The image of one target:
#   docker build --target functions -t scoring-functions .
#   docker build --target standalone -t scoring-standalone .
# Without --target it is {target}. Another base image, such as one with an own certificate or
# system libraries: --build-arg BASE_IMAGE=…
# Packages of a private index: --build-arg PIP_INDEX_URL=… or PIP_EXTRA_INDEX_URL=…; these and
# PIP_CERT, a file of the base image, are not kept in the image.
ARG BASE_IMAGE=
"""

# pip's log says why it failed: only a package that has to be compiled gets a second try.
_PACKAGES_STAGE = """
FROM ${{BASE_IMAGE:-{image}}} AS {target}-packages
ARG PIP_CERT=
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PROGRESS_BAR=off \\
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
{prepare}{wheels}COPY {requirements} ./
RUN packages() {{ {install} --log /tmp/pip.log {options}-r {requirements}{more}; }}; \\
    packages || {{ tools=build-essential; \\
      if grep -q "Cannot find command .git." /tmp/pip.log; then tools="git $tools"; \\
      elif ! grep -qE "exited with [0-9]|Failed building wheel" /tmp/pip.log; then \\
        exit 1; \\
      fi; \\
      apt-get update -qq \\
      && apt-get install -y -qq --no-install-recommends $tools \\
      && packages; \\
    }}
"""

# Outside Azure the Functions worker finds an app's packages by PYTHONPATH only, and puts its own
# before them (its older protobuf breaks onnx) unless its dependencies are isolated.
# https://github.com/Azure/azure-functions-python-worker (worker.py)
_FUNCTIONS_STAGE = """
FROM ${{BASE_IMAGE:-{image}}} AS functions
{system}ENV AzureWebJobsScriptRoot=/home/site/wwwroot \\
    AzureFunctionsJobHost__Logging__Console__IsEnabled=true \\
    FUNCTIONS_WORKER_RUNTIME=python \\
    PYTHON_ISOLATE_WORKER_DEPENDENCIES=1 \\
    PYTHONPATH={pythonpath} \\
    PYTHONUNBUFFERED=1
COPY --from=functions-packages /packages/ {pythonpath}/
{models}COPY scoring_runtime/ /home/site/wwwroot/scoring_runtime/
RUN python -m compileall -q --invalidation-mode checked-hash /home/site/wwwroot/scoring_runtime
COPY host.json function_app.py /home/site/wwwroot/
{source}{labels}{settings}"""

# In an image of small layers nothing is copied twice: find touches only what the user cannot read.
_STANDALONE_STAGE = """
FROM ${{BASE_IMAGE:-{image}}} AS standalone
{system}RUN groupadd --gid {user} scoring \\
    && useradd --uid {user} --gid {user} --create-home --no-log-init scoring
ENV HOME=/home/scoring \\
    PATH=/opt/venv/bin:$PATH \\
    PYTHONPATH={pythonpath} \\
    PYTHONUNBUFFERED=1 \\
    SCORING_HOST=0.0.0.0
COPY --from=standalone-packages /opt/venv/ /opt/venv/
{models}COPY scoring_runtime/ /var/azureml-app/scoring_runtime/
RUN python -m compileall -q --invalidation-mode checked-hash /var/azureml-app/scoring_runtime
{source}RUN find /var/azureml-app ! -type l \\
    \\( ! -perm -a=r -o -perm /go=w -o -type d ! -perm -a=x \\) -exec chmod a+rX,go-w {{}} +
WORKDIR {workdir}
{labels}{settings}USER {user}:{user}
EXPOSE 5001
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \\
    CMD ["python", "-I", "-c", "{healthy}"]
CMD ["python", "-m", "scoring_runtime", "serve"]
"""
# Isolated (-I), for the entry script's folder may hold a module by the name of a standard one.
_HEALTHY = (
    "import http.client as h, os, ssl; e = os.environ.get; t = e('SCORING_TLS_CERT'); "
    "p = t and e('SEPERATE_HEALTH_ENDPOINT') == 'true'; "
    "a = ('127.0.0.1', int(e('HEALTH_PORT', 5000) if p else e('SERVER_PORT', 5001))); "
    "c = h.HTTPSConnection(*a, timeout=4, context=ssl._create_unverified_context()) "
    "if t and not p else h.HTTPConnection(*a, timeout=4); "
    "c.request('GET', '/health/live'); raise SystemExit(c.getresponse().status != 200)"
)
_PARTS = {
    FUNCTIONS: {
        "pythonpath": "/home/site/wwwroot/.python_packages/lib/site-packages",
        "stage": _FUNCTIONS_STAGE,
        "prepare": "",
        "install": "python -m pip install --target /packages",
    },
    STANDALONE: {
        "pythonpath": "/var/azureml-app",
        "stage": _STANDALONE_STAGE,
        "prepare": "RUN python -m venv --without-pip /opt/venv\n",
        "install": "python -m pip --python /opt/venv/bin/python install",
    },
}

_RENEWAL_MARGIN = timedelta(minutes=5)
_NO_DEADLINE = timedelta(hours=24)

FUNCTION_APP = '''"""The Azure Functions app: settings → runtime → functions."""

import os
from pathlib import Path

from scoring_runtime.functions.app import create_app, for_libraries

os.environ.update(for_libraries(os.environ))
app = create_app(os.environ, Path(__file__).parent)
'''


def dockerfile(
    target: str,
    *,
    python: str = "",
    base_image: str = "",
    settings: Mapping[str, str] = _NOTHING,
    source: bool,
    models: bool,
    wheels: bool,
    labels: Mapping[str, str] = _NOTHING,
    more: Mapping[str, Sequence[str]] = MappingProxyType({}),
    lock: bool = False,
    system: Sequence[str] = (),
) -> str:
    """The Dockerfile with the stages ``functions`` and ``standalone``; ``target`` is the default.

    It is the first too: a builder that makes every stage up to the wanted one, as docker without
    BuildKit does, then makes no other. ``settings`` become the image's variables, with the paths
    below the root of ``target`` as they are in each image; ``more`` are requirements of a target
    that ``requirements.txt`` does not have; with ``lock`` each target's lock file has all, and pip
    takes nothing else. ``system`` are packages of Debian (with ``locales`` the
    locale en_US.UTF-8). ``source``, ``models`` and ``wheels`` say which folders the context has.

    Raises:
        PackagingError: an unknown target, a Python that the runtime does not support, or a base
            image that is none.
    """
    if target not in TARGETS:
        raise PackagingError(f"{target!r} is no target. Allowed: {', '.join(TARGETS)}.")
    images = _images(python or DEFAULT_PYTHON)
    if base_image:
        images[target] = _checked_image(base_image)
    text = _HEADER.format(target=target)
    for each in sorted(TARGETS, key=lambda name: name != target):
        values = _values_of(each, settings, ROOTS[target])
        text += _PACKAGES_STAGE.format(
            target=each,
            image=images[each],
            more="" if lock else "".join(f' "{line}"' for line in more.get(each, ())),
            requirements=lock_name(each) if lock else "requirements.txt",
            options="--require-hashes " if lock else "",
            wheels=f"COPY {WHEELS}/ {WHEELS}/\n" if wheels else "",
            **_PARTS[each],
        )
        root, own = ROOTS[each], _PARTS[each]
        text += own["stage"].format(
            image=images[each],
            system=_installed(system),
            pythonpath=own["pythonpath"],
            user=USER,
            source=f"COPY {SOURCE}/ {root}/{SOURCE}/\n" if source else "",
            models="".join(f"COPY {name}/ {root}/{name}/\n" for name in (MODELS, NOTES) if models),
            workdir=f"{root}/{SOURCE}" if source else root,
            labels=_assignments("LABEL", {**_LABELS, **labels}),
            settings=_assignments("ENV", values),
            healthy=_HEALTHY,
        )
    return f"{text}\n# What a build without --target makes.\nFROM {target}\n"


def dockerignore() -> str:
    """The ignore file of a context: the builder is sent what the Dockerfile copies, no more."""
    locks = map(lock_name, TARGETS)
    copied = "".join(f"!{name}\n" for name in (*_COPIED, *locks, SOURCE, MODELS, NOTES, WHEELS))
    return f"*\n{copied}**/__pycache__\n"


def _installed(packages: Sequence[str]) -> str:
    """The instruction that installs packages of Debian; nothing without any."""
    install = f"apt-get install -y -qq --no-install-recommends {' '.join(packages)}"
    steps = ["apt-get update -qq", install, "rm -rf /var/lib/apt/lists/*"]
    if "locales" in packages:
        steps.insert(2, "localedef -i en_US -f UTF-8 en_US.UTF-8")
    return "RUN " + " \\\n    && ".join(steps) + "\n" if packages else ""


def _images(python: str) -> dict[str, str]:
    """The base images of a Python version; those of Functions go by its first two numbers."""
    found = _PYTHON.fullmatch(python)
    oldest = ".".join(map(str, _OLDEST_PYTHON))
    if found is None:
        raise PackagingError(f"Python {python!r} is no version: expected one such as {oldest}.")
    short = f"{found[1]}.{found[2]}"
    if (int(found[1]), int(found[2])) < _OLDEST_PYTHON:
        raise PackagingError(f"Python {python} is too old for the runtime: {oldest} or newer.")
    return {
        FUNCTIONS: f"mcr.microsoft.com/azure-functions/python:4-python{short}",
        STANDALONE: f"python:{python}-slim",
    }


def _checked_image(name: str) -> str:
    if not _IMAGE.fullmatch(name):
        expected = "expected one such as python:3.11-slim"
        raise PackagingError(f"The base image {name!r} is no image name: {expected}.")
    return name


def _values_of(target: str, settings: Mapping[str, str], root: str) -> dict[str, str]:
    """The settings with their paths below ``root`` in the image of ``target``."""
    own = _PARTS[target]
    values = moved(settings, root, ROOTS[target])
    if "PATH" in values:
        raise PackagingError(
            "The environment's variables set PATH, which the image needs as it is: leave it out."
        )
    if "PYTHONPATH" in values:
        values["PYTHONPATH"] += f":{own['pythonpath']}"
    return values


def _assignments(instruction: str, values: Mapping[str, str]) -> str:
    """One instruction with all of them, a line each; nothing without any."""
    lines = [instruction, *(f"    {name}={_quoted(value)}" for name, value in values.items())]
    return " \\\n".join(lines) + "\n" if values else ""


def _quoted(value: str) -> str:
    r"""In double quotes, where ``\``, ``"`` and ``$`` need a backslash before them.

    Source: https://docs.docker.com/reference/dockerfile/#environment-replacement
    """
    return '"' + re.sub(r'([\\"$])', r"\\\1", value) + '"'


# --- what the Functions host reads ----------------------------------------------------------------


def host_json(settings: Settings) -> str:
    """host.json: the lock of a message is renewed as long as ``run()`` may take.

    Source: https://learn.microsoft.com/azure/azure-functions/functions-host-json
    """
    document = {
        "version": "2.0",
        "logging": {
            "logLevel": {"default": "Information", "Host.Aggregator": "Warning"},
            "applicationInsights": {
                "samplingSettings": {"isEnabled": True, "excludedTypes": "Request;Exception"}
            },
        },
        "extensionBundle": {
            "id": "Microsoft.Azure.Functions.ExtensionBundle",
            "version": "[4.0.0, 5.0.0)",
        },
        "extensions": {
            "http": {"routePrefix": ""},
            "blobs": {"maxDegreeOfParallelism": 8, "poisonBlobThreshold": 5},
            "serviceBus": {
                "autoCompleteMessages": True,
                "maxAutoLockRenewalDuration": _renewal(settings),
                "maxConcurrentCalls": 16,
                "prefetchCount": 0,
            },
        },
    }
    return json.dumps(document, indent=2) + "\n"


def local_settings(values: Mapping[str, str], required: Iterable[RequiredSetting]) -> str:
    """local.settings.json for ``func start``: Azurite for storage, and no secret."""
    known = {"FUNCTIONS_WORKER_RUNTIME": "python"}
    storage = {
        each.name: "UseDevelopmentStorage=true" for each in required if "storage" in each.about
    }
    document = {"IsEncrypted": False, "Values": {**known, **storage, **values}}
    return json.dumps(document, indent=2) + "\n"


def app_settings(values: Mapping[str, str], required: Iterable[RequiredSetting]) -> str:
    """app-settings.json: what is in the image, and what has to be set where it runs."""
    document = {
        "in_image": dict(values),
        "required": {each.name: each.about for each in required},
    }
    return json.dumps(document, indent=2) + "\n"


def _renewal(settings: Settings) -> str:
    deadline = timedelta(milliseconds=settings.scoring_timeout_ms) or _NO_DEADLINE
    seconds = int((deadline + _RENEWAL_MARGIN).total_seconds())
    days, rest = divmod(seconds, 86400)
    time = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}.{time}" if days else time
