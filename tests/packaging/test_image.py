"""Images built by buildah from contexts that the packager makes, started and asked."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from azure.servicebus import ServiceBusClient
from azure.storage.blob import BlobServiceClient

from scoring_runtime.check.checks import INSIDE
from scoring_runtime.errors import PackagingError
from scoring_runtime.packaging.context import make
from scoring_runtime.packaging.dockerfile import dockerfile, dockerignore
from scoring_runtime.packaging.image import build
from scoring_runtime.packaging.specification import (
    FUNCTIONS,
    STANDALONE,
    Environment,
    PackagedModel,
    Specification,
)
from tests.hosts.azurite import Azurite
from tests.hosts.broker import ServiceBusBroker
from tests.hosts.functions import blob_event, message_event
from tests.hosts.image import WWWROOT, FunctionsContainer, StandaloneContainer, worker_library
from tests.hosts.images import ImageStore
from tests.hosts.waiting import until

pytestmark = pytest.mark.long

SCRIPT = """
import json
import os
from pathlib import Path

import offset


def init():
    global line
    line = json.loads(Path(os.environ["AZUREML_MODEL_DIR"], "line.json").read_text())


def run(data):
    return {"y": line["slope"] * json.loads(data)["x"] + offset.OFFSET}
"""
BODY, ANSWER = b'{"x": 20}', b'{"y":41}'
TOKEN = "t0ken-of-an-index"
# pip says that there is no such folder, and goes on.
PRIVATE_INDEX = f"file:///{TOKEN}"
TRICKY = {
    "DOLLAR": "$HOME ${HOME} $$ \\$HOME",
    "QUOTES": 'it\'s a "word" `here`',
    "BACKSLASHES": "C:\\new\\table\\",
    "SPACES": "  two  and #no comment=é ",
    "EMPTY": "",
}


@dataclass
class Built:
    """An image, the context it was built from, and what the builder wrote."""

    name: str
    context: Path
    lines: list[str]

    def step(self, text: str) -> str:
        """``cached``, or ``run``: what became of the only step with this text."""
        [at] = [n for n, line in enumerate(self.lines) if "STEP" in line and text in line]
        return "cached" if self.lines[at + 1].startswith("--> Using cache") else "run"


def specification_of(folder: Path) -> Specification:
    """A script with a module, a model of one file, and all three triggers, for Functions."""
    model, source = folder / "model", folder / "source"
    for each in (model, source):
        each.mkdir(parents=True)
    (model / "line.json").write_text('{"slope": 2}')
    (source / "score.py").write_text(SCRIPT)
    (source / "offset.py").write_text("OFFSET = 1\n")
    return Specification(
        target=FUNCTIONS,
        triggers=("http", "blob", "service_bus"),
        models=(PackagedModel("line", 1, model),),
        entry_script=source / "score.py",
        source_dir=source,
        environment=Environment(variables=TRICKY),
    )


@pytest.fixture(scope="module")
def images() -> Iterator[ImageStore]:
    with ImageStore() as store:
        yield store


class Package:
    """What is packaged for Functions, and the builds of a target: either can be made of it."""

    def __init__(self, images: ImageStore, folder: Path, target: str) -> None:
        self.images, self.folder, self.target = images, folder, target
        self.builds = 0
        # One of the images is installed from its lock file.
        self.specification = replace(specification_of(folder), lock=target == STANDALONE)

    def build(self, **build_args: str | None) -> Built:
        """The context as the inputs are now, and its image."""
        made = make(self.specification, self.folder / "context", resolve=False)
        lines: list[str] = []
        self.builds += 1
        name = build(
            made.path,
            self.target,
            f"localhost/scoring-test-{self.target}:{self.builds}",
            builder=self.images.builder,
            build_args={**self.images.build_args, **build_args},
            output=lines.append,
            options=self.images.options,
        )
        return Built(name, made.path, lines)


@pytest.fixture(scope="module")
def standalone_package(images: ImageStore, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return Package(images, tmp_path_factory.mktemp("standalone"), STANDALONE)


@pytest.fixture(scope="module")
def standalone(standalone_package: Package) -> Built:
    """Built with a private index that is named in the command."""
    return standalone_package.build(PIP_EXTRA_INDEX_URL=with_private_index())


@pytest.fixture(scope="module")
def functions(images: ImageStore, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built with a private index that is named in the environment."""
    package = Package(images, tmp_path_factory.mktemp("functions"), FUNCTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_EXTRA_INDEX_URL", with_private_index())
        return package.build(PIP_EXTRA_INDEX_URL=None)


def with_private_index() -> str:
    return " ".join(filter(None, (os.environ.get("PIP_EXTRA_INDEX_URL"), PRIVATE_INDEX)))


# --- standalone -----------------------------------------------------------------------------------


@dataclass
class Running:
    host: StandaloneContainer
    broker: ServiceBusBroker
    folder: Path


@pytest.fixture(scope="module")
def running(
    images: ImageStore, standalone: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """All three triggers: HTTP, a mounted folder, a queue."""
    folder = tmp_path_factory.mktemp("drop")
    for each in (folder, folder / "input", folder / "output"):
        each.mkdir(exist_ok=True)
        each.chmod(0o777)
    with ServiceBusBroker() as broker:
        for name in ("input", "output"):
            broker.add_queue(name)
        host = StandaloneContainer(
            images,
            standalone.name,
            volumes={folder: "/drop"},
            BLOB_INPUT_FOLDER="/drop/input",
            BLOB_OUTPUT_FOLDER="/drop/output",
            ServiceBusConnectionString=broker.connection_string,
        )
        with host:
            yield Running(host, broker, folder)


def test_the_standalone_image_scores_requests(running: Running):
    answer = httpx.post(f"{running.host.url}/score", content=BODY)
    assert (answer.status_code, answer.content) == (200, ANSWER)


def test_the_standalone_image_scores_a_dropped_file(running: Running):
    (running.folder / "input" / "a.json").write_bytes(BODY)
    result = running.folder / "output" / "a_out.json"
    until(result.exists)
    assert result.read_bytes() == ANSWER


def test_the_standalone_image_answers_a_message(running: Running):
    running.broker.send("input", BODY, message_id="m1")
    [reply] = until(lambda: running.broker.take_all("output"))
    assert (reply.body, reply.answers) == (ANSWER, "m1")


def test_the_health_check_passes_while_it_serves_and_fails_otherwise(
    images: ImageStore, standalone: Built, running: Running
):
    check = images.config(standalone.name)["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    assert running.host.container.run(*check[1:]).returncode == 0
    with images.container(standalone.name, SERVER_PORT="1") as other:
        assert other.run(*check[1:]).returncode == 1


def test_sigterm_ends_the_standalone_image_with_0(images: ImageStore, standalone: Built):
    with StandaloneContainer(images, standalone.name, SCORING_TRIGGERS="http") as host:
        assert host.stop() == 0


def variables_of(images: ImageStore, image: str) -> dict[str, str]:
    return dict(each.split("=", 1) for each in images.config(image)["Env"])


def test_the_standalone_image_says_how_it_is_run(images: ImageStore, standalone: Built):
    config = images.config(standalone.name)
    assert {name: config[name] for name in ("User", "ExposedPorts", "WorkingDir", "Cmd")} == {
        "User": "10001:10001",
        "ExposedPorts": {"5001/tcp": {}},
        "WorkingDir": "/var/azureml-app/source",
        "Cmd": ["python", "-m", "scoring_runtime", "serve"],
    }
    assert config["Labels"]["scoring-runtime.models"] == "line:1"
    variables = variables_of(images, standalone.name)
    assert variables.pop("PATH").startswith("/opt/venv/bin:/usr/local/")
    assert variables == {
        "AML_APP_ROOT": "/var/azureml-app/source",
        "AZUREML_ENTRY_SCRIPT": "score.py",
        "AZUREML_MODEL_DIR": "/var/azureml-app/azureml-models/line/1",
        "HOME": "/home/scoring",
        "LANG": "C.UTF-8",
        "PYTHONPATH": "/var/azureml-app",
        "PYTHONUNBUFFERED": "1",
        "SCORING_HOST": "0.0.0.0",
        "SCORING_TRIGGERS": "http,blob,service_bus",
        **TRICKY,
    }


FOUND = """
id -u
for name in gcc cc g++ make git ld; do command -v $name; done
ls -d /build /opt/venv/bin/pip* 2> /dev/null
ls -A /tmp
for file in /var/azureml-app/new /var/azureml-app/source/score.py /opt/venv/new; do
  touch $file 2> /dev/null && echo $file
done
find /var/azureml-app /opt/venv ! -user root
touch ~/own && echo home
"""


def test_the_standalone_user_may_write_at_home_only_and_finds_no_compiler(
    images: ImageStore, standalone: Built
):
    with images.container(standalone.name) as container:
        done = container.run("sh", "-c", FOUND)
    assert done.stdout.split() == ["10001", "home"]


# --- functions ------------------------------------------------------------------------------------


@dataclass
class Served:
    host: FunctionsContainer
    broker: ServiceBusBroker
    blobs: BlobServiceClient


@pytest.fixture(scope="module")
def served(
    images: ImageStore,
    functions: Built,
    azurite: Azurite,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """The functions image's wwwroot in Microsoft's worker library."""
    with ExitStack() as stack:
        broker = stack.enter_context(ServiceBusBroker())
        for name in ("input", "output"):
            broker.add_queue(name)
        blobs = BlobServiceClient.from_connection_string(azurite.connection_string)
        stack.enter_context(blobs)
        worker = worker_library(tmp_path_factory.mktemp("worker"))
        host = FunctionsContainer(
            images,
            functions.name,
            worker,
            AzureWebJobsStorage=azurite.connection_string,
            TriggerConnectionString=azurite.connection_string,
            ServiceBusConnectionString=broker.connection_string,
        )
        yield Served(stack.enter_context(host), broker, blobs)


def test_the_functions_image_scores_requests_in_the_worker(served: Served):
    answer = httpx.post(f"{served.host.url}/score", content=BODY)
    assert (answer.status_code, answer.content) == (200, ANSWER)


def test_the_functions_image_scores_a_blob_in_the_worker(served: Served):
    """The blob is read from, and its result written to, storage as the host's bindings say."""
    [function] = [each for each in served.host.functions if each["name"] == "score_blob"]
    paths = {each["name"]: each["path"] for each in function["bindings"]}
    for container in ("input-images", "output-images"):
        served.blobs.create_container(container)
    source = served.blobs.get_blob_client("input-images", "a.json")
    source.upload_blob(BODY)
    done = served.host.deliver(
        "score_blob", blob_event("input/a.json", source.download_blob().readall())
    )
    assert done.failure == ""
    _, _, name = paths["output"].replace("{blobname}", "a").partition("/")
    result = served.blobs.get_blob_client("output-images", name)
    result.upload_blob(done.outputs["output"])
    assert (name, result.download_blob().readall()) == ("a_out.json", ANSWER)


def test_the_functions_image_answers_a_message_in_the_worker(served: Served):
    served.broker.send("input", BODY, message_id="m1")
    connection = served.broker.connection_string
    with (
        ServiceBusClient.from_connection_string(connection) as client,
        client.get_queue_receiver("input") as receiver,
    ):
        [message] = receiver.receive_messages(1, max_wait_time=10)
        done = served.host.deliver("score_message", message_event(message))
        assert done.failure == ""
        receiver.complete_message(message)
    [reply] = served.broker.take_all("output")
    assert (reply.body, reply.answers) == (ANSWER, "m1")


@pytest.mark.parametrize("target", [FUNCTIONS, STANDALONE])
def test_an_image_checks_itself(
    images: ImageStore, target: str, tmp_path: Path, request: pytest.FixtureRequest
):
    """What ``check --image`` runs in it: with its packages and settings, and the limits of its
    host."""
    (tmp_path / "a.json").write_bytes(BODY)
    (tmp_path / "a.json").chmod(0o644)
    tmp_path.chmod(0o755)
    image = request.getfixturevalue(target).name
    said = ["--sample", "/drop/a.json", "--set", "SCORING_TIMEOUT_MS=400000"]
    with images.container(image, volumes={tmp_path: "/drop"}) as container:
        done = container.run("sh", "-c", INSIDE, "sh", *said)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert (report["facts"]["samples"], report["unchecked"]) == (["/drop/a.json"], "")
    found = [(each["kind"], each["where"]) for each in report["findings"]]
    by_target = {FUNCTIONS: "SCORING_TIMEOUT_MS", STANDALONE: "WORKER_TIMEOUT"}
    assert (found, done.returncode) == ([("setting", by_target[target])], 8)


def test_what_the_functions_image_imports_is_its_own(images: ImageStore, functions: Built):
    """Every package of requirements.txt lies in wwwroot, where the worker looks in Azure."""
    names = ["aiohttp", "azure.functions", "azure.identity", "azure.servicebus", "orjson"]
    code = (
        "import importlib, json, sys; "
        "print(json.dumps([importlib.import_module(name).__file__ for name in sys.argv[1:]]))"
    )
    with images.container(functions.name) as container:
        done = container.run("python", "-c", code, *names)
    packages = f"{WWWROOT}/.python_packages/lib/site-packages"
    folders = [Path(file).parent for file in json.loads(done.stdout)]
    assert folders == [Path(packages, *name.split(".")) for name in names]


def test_the_functions_image_holds_what_its_host_reads(images: ImageStore, functions: Built):
    assert variables_of(images, functions.name) == {
        "AML_APP_ROOT": f"{WWWROOT}/source",
        "AZUREML_ENTRY_SCRIPT": "score.py",
        "AZUREML_MODEL_DIR": f"{WWWROOT}/azureml-models/line/1",
        "AzureFunctionsJobHost__Logging__Console__IsEnabled": "true",
        "AzureWebJobsScriptRoot": WWWROOT,
        "FUNCTIONS_WORKER_RUNTIME": "python",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": f"{WWWROOT}/.python_packages/lib/site-packages",
        "PYTHONUNBUFFERED": "1",
        "PYTHON_ISOLATE_WORKER_DEPENDENCIES": "1",
        "SCORING_HOST": "0.0.0.0",
        "SCORING_TRIGGERS": "http,blob,service_bus",
        **TRICKY,
    }
    with images.container(functions.name) as container:
        done = container.run("ls", "-A", WWWROOT)
    assert done.stdout.split() == [
        ".python_packages",
        "azureml-models",
        "azureml-models.scoring",
        "function_app.py",
        "host.json",
        "scoring_runtime",
        "source",
    ]


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [STANDALONE, FUNCTIONS])
def test_no_image_holds_a_build_argument(
    images: ImageStore, target: str, request: pytest.FixtureRequest
):
    """pip saw the index; the image's history, configuration and files do not have it."""
    built: Built = request.getfixturevalue(target)
    assert any(TOKEN in line for line in built.lines)
    said = json.dumps(images.inspect(built.name))
    assert "HEALTHCHECK" in said or target == FUNCTIONS  # the history is there
    assert [each for each in (TOKEN, "PIP_CERT", "PIP_EXTRA_INDEX_URL") if each in said] == []
    with images.container(built.name) as container:
        places = ["/home", "/opt", "/root", "/tmp", "/var/azureml-app"]
        found = container.run("grep", "-rlFs", TOKEN, *places)
    assert found.stdout == ""


# --- building again -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_new_model(standalone: Built, standalone_package: Package) -> Built:
    file = standalone_package.folder / "model" / "line.json"
    file.write_text('{"slope": 3}')
    file.chmod(0o600)
    return standalone_package.build(PIP_EXTRA_INDEX_URL=with_private_index())


def test_a_new_model_installs_no_package_again(images: ImageStore, with_new_model: Built):
    assert with_new_model.step("pip --python") == "cached"
    assert with_new_model.step("COPY --from=standalone-packages") == "cached"
    assert with_new_model.step("COPY azureml-models/") == "run"
    with StandaloneContainer(images, with_new_model.name, SCORING_TRIGGERS="http") as host:
        assert httpx.post(f"{host.url}/score", content=BODY).content == b'{"y":61}'


def test_a_changed_script_copies_no_model_again(with_new_model: Built, standalone_package: Package):
    (standalone_package.folder / "source" / "offset.py").write_text("OFFSET = 2\n")
    again = standalone_package.build(PIP_EXTRA_INDEX_URL=with_private_index())
    assert again.step("COPY azureml-models/") == "cached"
    assert again.step("COPY source/") == "run"


# --- builds that need more, or fail ---------------------------------------------------------------

SETUP = """
import pathlib, subprocess
from setuptools import setup

pathlib.Path("needs_cc").mkdir(exist_ok=True)
pathlib.Path("needs_cc/__init__.py").touch()
pathlib.Path("p.c").write_text('#include <stdio.h>\\nint main() { puts("compiled"); return 0; }')
subprocess.run(["cc", "-o", "needs_cc/program", "p.c"], check=True)
setup(name="needs-cc", version="1", packages=["needs_cc"], package_data={"needs_cc": ["program"]})
"""
PROGRAM = "/opt/venv/lib/python3.11/site-packages/needs_cc/program"


def build_packages(
    images: ImageStore,
    folder: Path,
    requirement: str,
    output: Callable[[str], None] = lambda line: None,
    **build_args: str,
) -> str:
    """The first stage of the standalone image alone."""
    (folder / "wheels").mkdir(exist_ok=True)
    text = dockerfile(STANDALONE, source=False, models=False, wheels=True)
    (folder / "Dockerfile").write_text(text)
    (folder / ".dockerignore").write_text(dockerignore())
    (folder / "requirements.txt").write_text(requirement)
    return build(
        folder,
        "standalone-packages",
        "localhost/scoring-test-packages",
        builder=images.builder,
        build_args={**images.build_args, **build_args},
        output=output,
        options=images.options,
    )


def test_a_package_without_a_wheel_is_compiled(images: ImageStore, tmp_path: Path):
    (tmp_path / "wheels").mkdir()
    with tarfile.open(tmp_path / "wheels" / "needs-cc-1.tar.gz", "w:gz") as archive:
        setup = tarfile.TarInfo("needs-cc-1/setup.py")
        setup.size = len(SETUP)
        archive.addfile(setup, io.BytesIO(SETUP.encode()))
    name = build_packages(images, tmp_path, "./wheels/needs-cc-1.tar.gz\n")
    with images.container(name) as container:
        assert container.run(PROGRAM).stdout == "compiled\n"


def test_a_package_that_is_not_there_fails_with_what_pip_says(images: ImageStore, tmp_path: Path):
    """At once: no compiler is installed for it."""
    lines: list[str] = []
    with pytest.raises(PackagingError) as caught:
        build_packages(images, tmp_path, "orjson==0.0.1\n", lines.append)
    said = str(caught.value).splitlines()
    assert said[0] == "buildah could not build the image (exit code 1):"
    assert "  ERROR: No matching distribution found for orjson==0.0.1" in said
    assert [line for line in lines if line.startswith(("Get:", "Reading package"))] == []
