"""The text of the Dockerfile and of the ignore file; what builders make of it is in test_images."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime.errors import PackagingError
from scoring_runtime.packaging.dockerfile import dockerfile, dockerignore
from scoring_runtime.packaging.specification import FUNCTIONS, STANDALONE, TARGETS
from tests.hosts.standalone import clean_environ
from tests.hosts.worker_packages import ensure_worker_packages

REPOSITORY = Path(__file__).parents[2]
ALL: Any = {"source": True, "models": True, "wheels": True}
NONE: Any = {"source": False, "models": False, "wheels": False}


def stage_of(text: str, name: str) -> list[str]:
    """The instructions of a stage, each as one line; ``FROM`` is the first."""
    joined = re.sub(r" *\\\n *", " ", text)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    starts = [at for at, line in enumerate(lines) if line.startswith("FROM ")] + [len(lines)]
    [found] = [
        lines[start:end]
        for start, end in itertools.pairwise(starts)
        if lines[start].endswith(f" AS {name}")
    ]
    return found


def instruction(lines: list[str], start: str) -> str:
    [found] = [line for line in lines if line.startswith(start)]
    return found


def test_the_repositorys_own_dockerfile_is_that_of_the_checkout():
    """It has neither a script nor a model: those are mounted. The same with its ignore file.

    What each target installs is in its lock file.
    """
    wanted = dockerfile(FUNCTIONS, **NONE, lock=True)
    assert (REPOSITORY / "Dockerfile").read_text() == wanted
    assert (REPOSITORY / ".dockerignore").read_text() == dockerignore()


@pytest.mark.parametrize("target", TARGETS)
def test_the_packaged_target_is_the_first_and_the_default_and_the_other_is_there_too(target: str):
    text = dockerfile(target, **ALL)
    stages = re.findall(r"^FROM (?:\S+ AS )?(\S+)$", text, re.MULTILINE)
    other = STANDALONE if target == FUNCTIONS else FUNCTIONS
    assert stages == [f"{target}-packages", target, f"{other}-packages", other, target]


@pytest.mark.parametrize(
    ("python", "functions", "standalone"),
    [
        ("", "mcr.microsoft.com/azure-functions/python:4-python3.11", "python:3.11-slim"),
        ("3.12.4", "mcr.microsoft.com/azure-functions/python:4-python3.12", "python:3.12.4-slim"),
    ],
)
def test_both_stages_of_a_target_start_from_its_python(
    python: str, functions: str, standalone: str
):
    text = dockerfile(FUNCTIONS, python=python, **ALL)
    for target, image in ((FUNCTIONS, functions), (STANDALONE, standalone)):
        for stage in (target, f"{target}-packages"):
            assert stage_of(text, stage)[0] == f"FROM ${{BASE_IMAGE:-{image}}} AS {stage}"


def test_a_base_image_is_that_of_the_packaged_target_alone():
    text = dockerfile(STANDALONE, base_image="registry.example:5000/a/b:1@sha256:0", **ALL)
    own = "FROM ${BASE_IMAGE:-registry.example:5000/a/b:1@sha256:0} AS"
    assert stage_of(text, STANDALONE)[0] == f"{own} standalone"
    assert stage_of(text, "standalone-packages")[0] == f"{own} standalone-packages"
    assert "registry.example" not in "".join(stage_of(text, FUNCTIONS))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("folder", "stage"), [("source", ""), ("azureml-models", ""), ("wheels", "-packages")]
)
def test_a_folder_is_copied_only_when_the_context_has_it(target: str, folder: str, stage: str):
    for there, count in ((ALL, 1), (NONE, 0)):
        lines = stage_of(dockerfile(FUNCTIONS, **there), f"{target}{stage}")
        assert sum(line.startswith(f"COPY {folder}/ ") for line in lines) == count
    if target == STANDALONE:
        root = "/var/azureml-app"
        for source, working in ((True, f"{root}/source"), (False, root)):
            text = dockerfile(target, source=source, models=True, wheels=False)
            assert instruction(stage_of(text, target), "WORKDIR") == f"WORKDIR {working}"


@pytest.mark.parametrize("target", TARGETS)
def test_packages_come_before_models_and_models_before_the_script(target: str):
    """So that what changes more often leaves the larger layers as they are."""
    order = ["COPY --from=", "COPY azureml-models/", "COPY scoring_runtime/", "COPY source/"]
    order += ["LABEL ", "ENV AML_APP_ROOT"]
    lines = stage_of(dockerfile(target, settings={"AML_APP_ROOT": "/x"}, **ALL), target)
    places = [lines.index(instruction(lines, each)) for each in order]
    assert places == sorted(places)


@pytest.mark.parametrize("target", TARGETS)
def test_build_arguments_are_those_of_the_first_stage_only(target: str):
    """An image's history has the arguments of its own stage."""
    text = dockerfile(target, **ALL)
    for stage in (f"{each}-packages" for each in TARGETS):
        arguments = [line for line in stage_of(text, stage) if line.startswith("ARG ")]
        assert arguments == ["ARG PIP_CERT=", "ARG PIP_INDEX_URL=", "ARG PIP_EXTRA_INDEX_URL="]
    for stage in TARGETS:
        assert "ARG" not in " ".join(stage_of(text, stage)).split()


# --- settings and labels --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "root", "other", "other_root"),
    [
        (FUNCTIONS, "/home/site/wwwroot", STANDALONE, "/var/azureml-app"),
        (STANDALONE, "/var/azureml-app", FUNCTIONS, "/home/site/wwwroot"),
    ],
)
def test_paths_in_the_image_are_those_of_each_target(
    target: str, root: str, other: str, other_root: str
):
    settings = {"ROOT": root, "IN": f"{root}/source", "BESIDE": f"{root}-2", "NOT": f"x{root}/a"}
    text = dockerfile(target, settings=settings, **ALL)
    for stage, place in ((target, root), (other, other_root)):
        found = instruction(stage_of(text, stage), "ENV ROOT=")
        assert found == f'ENV ROOT="{place}" IN="{place}/source" BESIDE="{root}-2" NOT="x{root}/a"'


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("", '""'),
        ("$HOME", r'"\$HOME"'),
        ('say "x"', r'"say \"x\""'),
        ("\\$", r'"\\\$"'),
        ("it's # é", '"it\'s # é"'),
    ],
)
def test_values_are_quoted(value: str, written: str):
    labels = {"org.opencontainers.image.title": "x", "a.b": value}
    lines = stage_of(dockerfile(FUNCTIONS, settings={"A": value}, labels=labels, **ALL), FUNCTIONS)
    assert instruction(lines, "ENV A=") == f"ENV A={written}"
    found = instruction(lines, "LABEL")
    assert found.endswith(f" a.b={written}")
    assert re.findall(r"image\.title=(\S+)", found) == ['"x"']


def test_the_modules_of_a_package_are_found_beside_those_of_the_user():
    text = dockerfile(FUNCTIONS, settings={"PYTHONPATH": "/mine"}, **ALL)
    packages = "/home/site/wwwroot/.python_packages/lib/site-packages"
    found = instruction(stage_of(text, FUNCTIONS), 'ENV PYTHONPATH="')
    assert found == f'ENV PYTHONPATH="/mine:{packages}"'
    found = instruction(stage_of(text, STANDALONE), 'ENV PYTHONPATH="')
    assert found == 'ENV PYTHONPATH="/mine:/var/azureml-app"'


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"target": "aci"}, "'aci' is no target. Allowed: functions, standalone."),
        ({"python": "2.12.18"}, "Python 2.12.18 is too old for the runtime: 3.11 or newer."),
        ({"python": "3"}, "Python '3' is no version: expected one such as 3.11."),
        ({"python": "3.11\nRUN x"}, "Python '3.11\\nRUN x' is no version: expected one such as 3."),
        ({"base_image": "a b"}, "The base image 'a b' is no image name: expected one such as "),
        ({"base_image": "a\nRUN b"}, "The base image 'a\\nRUN b' is no image name: expected one "),
        ({"settings": {"PATH": "/bin"}}, "The environment's variables set PATH, which the image "),
    ],
    ids=["target", "old", "short", "injected-python", "space", "injected-image", "path"],
)
def test_what_an_image_cannot_hold_is_refused(named: dict[str, Any], message: str):
    with pytest.raises(PackagingError) as caught:
        dockerfile(**{"target": FUNCTIONS, **ALL, **named})
    assert str(caught.value).startswith(message)


def test_the_builder_is_sent_what_is_copied_and_no_more():
    """Not local.settings.json, which may hold connection strings."""
    assert dockerignore().splitlines() == [
        "*",
        "!requirements.txt",
        "!host.json",
        "!function_app.py",
        "!scoring_runtime",
        "!requirements-functions.lock",
        "!requirements-standalone.lock",
        "!source",
        "!azureml-models",
        "!azureml-models.scoring",
        "!wheels",
        "**/__pycache__",
    ]
    copied = set()
    for stage in (*TARGETS, *(f"{target}-packages" for target in TARGETS)):
        for line in stage_of(dockerfile(FUNCTIONS, **ALL), stage):
            if line.startswith("COPY ") and "--from" not in line:
                copied |= {name.rstrip("/") for name in line.split()[1:-1]}
    assert {f"!{name}" for name in copied} < set(dockerignore().splitlines())
    assert len(copied) == 8


AS_THE_WORKER_DOES = """
import os, sys
own = sys.argv[1]
sys.path.insert(1, own)
import google.protobuf
assert google.protobuf.__version__.startswith("4.25."), google.protobuf.__version__
if os.environ.get("PYTHON_ISOLATE_WORKER_DEPENDENCIES") == "1":
    sys.path.remove(own)
    for name, module in list(sys.modules.items()):
        places = [*(getattr(module, "__path__", None) or []), getattr(module, "__file__", "") or ""]
        if any(place.startswith(own) for place in places):
            del sys.modules[name]
    sys.path.append(own)
import onnx
print(len(onnx.ModelProto().SerializeToString()))
"""


def test_onnx_can_be_imported_beside_the_workers_older_protobuf():
    """Off Azure the worker's folder stands first on the path until its dependencies are isolated.

    Source: worker.py and utils/dependency.py of Azure/azure-functions-python-worker 4.34.
    """
    stage = " ".join(stage_of(dockerfile(FUNCTIONS, **ALL), FUNCTIONS))
    variables = dict(re.findall(r"\b(PYTHON_ISOLATE[A-Z_]+)=(\S+)", stage))
    command = [sys.executable, "-c", AS_THE_WORKER_DOES, str(ensure_worker_packages())]
    for environ, code in ((variables, 0), ({}, 1)):
        done = subprocess.run(command, env=clean_environ(**environ), capture_output=True)
        assert done.returncode == code, done.stderr
