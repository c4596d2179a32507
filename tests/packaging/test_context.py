"""Build contexts: what is in them, that they are whole or not there, and the same each time."""

from __future__ import annotations

import json
import resource
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scoring_runtime.errors import PackagingError
from scoring_runtime.models import manifest, registry
from scoring_runtime.packaging import model_files
from scoring_runtime.packaging.dockerfile import FUNCTION_APP, host_json
from scoring_runtime.packaging.specification import Environment, Specification
from scoring_runtime.settings.settings import Settings
from tests.hosts.standalone import clean_environ
from tests.packaging.conftest import Package, hidden

REPOSITORY = Path(__file__).parents[2]
KEY = "k3y" * 28 + "K0=="
CONNECTION = f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={KEY}"


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but those of the runtime itself, by path."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
    return {name: data for name, data in named.items() if not name.startswith("scoring_runtime/")}


# --- what is in it --------------------------------------------------------------------------------


def test_it_holds_what_an_image_needs(package: Package) -> None:
    made = package()
    assert sorted(files(made.path)) == [
        ".dockerignore",
        "Dockerfile",
        "app-settings.json",
        "azureml-models.scoring/net/1.json",
        "azureml-models/net/1/model.bin",
        "function_app.py",
        "host.json",
        "local.settings.json",
        "requirements.txt",
        "scoring-package.json",
        "source/helper.py",
        "source/labels.txt",
        "source/score.py",
    ]
    assert made.source_files == ("helper.py", "labels.txt", "score.py")
    assert made.models == ("net:1",)


def test_the_runtime_in_it_is_this_one(package: Package) -> None:
    made = package().path / "scoring_runtime"
    here = REPOSITORY / "scoring_runtime"
    wanted = {path.relative_to(here): path.read_bytes() for path in here.rglob("*.py")}
    others = [here / "py.typed", *(here / "http/browser").iterdir()]
    wanted |= {path.relative_to(here): path.read_bytes() for path in others}
    found = {path.relative_to(made): path.read_bytes() for path in made.rglob("*.*")}
    assert found == wanted


def test_the_host_files_are_those_of_the_repository() -> None:
    """function_app.py and host.json at the top level are what is packaged by default."""
    assert (REPOSITORY / "function_app.py").read_text("utf-8") == FUNCTION_APP
    settings = Settings.from_environ({}, defaults={"AML_APP_ROOT": "/nonexistent"})
    assert (REPOSITORY / "host.json").read_text("utf-8") == host_json(settings)


@pytest.mark.parametrize(
    ("milliseconds", "renewal"),
    [("3600000", "01:05:00"), ("1000", "00:05:01"), ("0", "1.00:05:00")],
)
def test_a_lock_is_renewed_as_long_as_run_may_take(
    package: Package, milliseconds: str, renewal: str
) -> None:
    environment = Environment(variables={"SCORING_TIMEOUT_MS": milliseconds})
    document = json.loads((package(environment=environment).path / "host.json").read_text())
    assert document["extensions"]["serviceBus"]["maxAutoLockRenewalDuration"] == renewal


def test_settings_are_in_the_image_by_absolute_paths(package: Package) -> None:
    assert package().settings == {
        "AML_APP_ROOT": "/home/site/wwwroot/source",
        "AZUREML_ENTRY_SCRIPT": "score.py",
        "AZUREML_MODEL_DIR": "/home/site/wwwroot/azureml-models/net/1",
        "SCORING_TRIGGERS": "http",
    }
    made = package("other", target="standalone", triggers=(), input_queue="in")
    assert made.settings == {
        "AML_APP_ROOT": "/var/azureml-app/source",
        "AZUREML_ENTRY_SCRIPT": "score.py",
        "AZUREML_MODEL_DIR": "/var/azureml-app/azureml-models/net/1",
        "SERVICEBUS_INPUT_QUEUE": "in",
    }


def test_local_settings_start_in_the_context(package: Package) -> None:
    made = package(triggers=("http", "blob"))
    values = json.loads((made.path / "local.settings.json").read_text())["Values"]
    assert values == {
        "FUNCTIONS_WORKER_RUNTIME": "python",
        "AzureWebJobsStorage": "UseDevelopmentStorage=true",
        "TriggerConnectionString": "UseDevelopmentStorage=true",
        "AML_APP_ROOT": "source",
        "AZUREML_ENTRY_SCRIPT": "score.py",
        "AZUREML_MODEL_DIR": "azureml-models/net/1",
        "SCORING_TRIGGERS": "http,blob",
    }


def test_a_registered_model_is_linked(package: Package, tmp_path: Path, model: Path) -> None:
    root = tmp_path / "registry"
    registered = registry.register(root, "net", model, description="noted")
    made = package(models=(model_files.from_registry(root, "net"),)).path / "azureml-models/net/1"
    assert (made / "model.bin").samefile(registered.path / "model.bin")
    noted = manifest.read(made)
    assert noted is not None and noted.description == "noted"
    by_path = package("again", models=(model_files.from_path("net", 1, registered.path),)).path
    assert (by_path / "azureml-models/net/1/model.bin").samefile(registered.path / "model.bin")
    with pytest.raises(PackagingError, match=r"There is no model nett?.*Did you mean net\?"):
        model_files.from_registry(root, "nett")
    with pytest.raises(PackagingError, match=r"There is no model net version 7. It has version 1."):
        model_files.from_registry(root, "net", 7)


def test_a_model_that_others_cannot_read_is_copied(
    package: Package, tmp_path: Path, model: Path
) -> None:
    """The user of the image can read every file; the registry's own stays as it is."""
    model.chmod(0o600)
    registered = registry.register(tmp_path / "registry", "net", model)
    wanted = model_files.from_registry(tmp_path / "registry", "net")
    there = package(models=(wanted,)).path / "azureml-models/net/1/model.bin"
    assert stat.S_IMODE(there.stat().st_mode) == 0o644
    assert stat.S_IMODE((registered.path / "model.bin").stat().st_mode) == 0o600


# --- the same each time ---------------------------------------------------------------------------


def test_an_unchanged_second_run_leaves_it_alone(package: Package) -> None:
    first = package()
    before = {path: path.stat().st_ctime_ns for path in first.path.rglob("*")}
    second = package()
    assert (first.unchanged, second.unchanged) == (False, True)
    assert {path: path.stat().st_ctime_ns for path in first.path.rglob("*")} == before
    assert replace(second, unchanged=False) == first


def test_a_changed_script_replaces_it_and_keeps_the_model(package: Package, source: Path) -> None:
    first = package()
    inode = (first.path / "azureml-models/net/1/model.bin").stat().st_ino
    (source / "helper.py").write_text("X = 2\n")
    second = package()
    assert not second.unchanged
    assert (second.path / "source/helper.py").read_text() == "X = 2\n"
    assert (second.path / "azureml-models/net/1/model.bin").stat().st_ino == inode


def test_an_input_that_is_written_to_does_not_change_the_package(
    package: Package, model: Path
) -> None:
    made = package()
    with model.open("r+b") as file:
        file.write(b"changed")
    assert (made.path / "azureml-models/net/1/model.bin").read_bytes() == b"weights"


# --- wrong input ----------------------------------------------------------------------------------


def refused(package: Package, tmp_path: Path, **changes: object) -> str:
    """The message of a package that is refused; nothing of it is there."""
    with pytest.raises(PackagingError) as error:
        package("refused", **changes)
    assert not (tmp_path / "refused").exists()
    assert not [name for name in hidden(tmp_path) if "refused" in name]
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "lambda"}, "There is no target 'lambda'. Allowed: functions, standalone."),
        ({"triggers": ("kafka",)}, "There is no trigger 'kafka'. Allowed: http, blob, service_bus"),
        ({"entry_script": None, "source_dir": None, "models": ()}, "There is nothing to package: "),
        ({"input_path": "a/{blobname}.json"}, "--input-path is for the trigger blob, which is not"),
        (
            {"auth_level": "function", "triggers": ("blob",)},
            "--auth-level is for the trigger http, which is not packaged: add --trigger http or",
        ),
        ({"output_queue": "out"}, "--output-queue is for the trigger service_bus_queue, which is"),
        ({"auth_level": "root"}, "SCORING_AUTH_LEVEL has the value 'root', which is not allowed."),
        (
            {"triggers": ("blob",), "output_path": "input/{blobname}.json"},
            "BLOB_OUTPUT_PATH has the value 'input/{blobname}.json', which is not allowed: ",
        ),
        (
            {"environment": Environment(variables={"AZUREML_MODEL_DIR": "/x"})},
            "The environment's variables set AZUREML_MODEL_DIR, which the packager sets to where ",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_packaged_is_named(
    package: Package, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    assert refused(package, tmp_path, **changes).startswith(message)


def test_a_model_that_needs_a_script_is_refused_without(package: Package, tmp_path: Path) -> None:
    message = refused(package, tmp_path, entry_script=None, source_dir=None)
    assert message.startswith(f"The model net at {tmp_path / 'model.bin'} is none that scores")
    assert message.endswith("Add --entry-script score.py.")


def test_a_folder_with_something_else_is_left_alone(package: Package, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(PackagingError) as error:
        package("full", overwrite=True)
    assert str(error.value) == (
        f"The output folder {tmp_path / 'full'} is not empty and holds no package: it has "
        "thesis.tex. Name a folder that is empty or not there."
    )
    assert files(tmp_path / "full") == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"format": 1, "files": 3}', b"\xff{{"])
def test_a_damaged_document_is_no_package(package: Package, tmp_path: Path, content: bytes) -> None:
    """Then nobody knows what in the folder is whose."""
    made = package().path
    (made / "scoring-package.json").write_bytes(content)
    with pytest.raises(PackagingError, match="is not empty and holds no package"):
        package()


# --- secrets --------------------------------------------------------------------------------------


def test_secrets_are_named_and_never_written(package: Package) -> None:
    variables = {
        "TriggerConnectionString": CONNECTION,
        "REDIS_PASSWORD": "sw0rdfish",
        "MY_API_TOKEN": "t0ken",
        "STORE": CONNECTION,
        "GREETING": "hello",
    }
    made = package(
        triggers=("http", "blob", "service_bus"), environment=Environment(variables=variables)
    )
    assert [each.name for each in made.required] == [
        "AzureWebJobsStorage",
        "TriggerConnectionString",
        "ServiceBusConnectionString",
        "MY_API_TOKEN",
        "REDIS_PASSWORD",
        "STORE",
    ]
    assert made.settings["GREETING"] == "hello"
    everything = b"".join(files(made.path).values())
    for secret in (KEY, "sw0rdfish", "t0ken"):
        assert secret.encode() not in everything
    listed = json.loads((made.path / "app-settings.json").read_text())
    assert set(listed["required"]) == {each.name for each in made.required}
    assert listed["in_image"] == made.settings


# --- whole or not at all --------------------------------------------------------------------------


def test_an_error_while_writing_leaves_nothing(package: Package, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(b"x" * 5_000_000)
    models = (model_files.from_path("net", 1, tmp_path / "large.bin"),)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, hard))
    try:
        message = refused(package, tmp_path, models=models)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert message.startswith(f"{tmp_path / 'refused'} cannot be made")
    assert message.endswith("File too large.")


MEASURED = """
import sys
from pathlib import Path
from scoring_runtime.packaging.context import make
from scoring_runtime.packaging.model_files import from_path
from scoring_runtime.packaging.specification import Specification

wanted = Specification(models=(from_path("net", 1, Path("large.bin")),), entry_script=Path("s.py"))
make(wanted, Path("package"), progress=lambda *done: print(*done), resolve=False)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def test_a_large_model_is_never_held_in_memory(tmp_path: Path) -> None:
    """The peak stays below 100 MB while 300 MB are copied, with their progress."""
    (tmp_path / "s.py").touch()
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(300_000_000)
    # ru_maxrss would be that of this process, from before exec().
    command = [sys.executable, "-c", MEASURED]
    environ = clean_environ(PYTHONPATH=str(REPOSITORY))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environ)
    *said, peak = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert said[-1] == "300000000 300000000"
    assert int(peak) < 100_000  # kB
    shutil.rmtree(tmp_path)


def test_several_models_are_below_one_folder(package: Package, model: Path) -> None:
    models = tuple(model_files.from_path(name, 1, model) for name in ("one", "two"))
    made = package(models=models)
    assert made.settings["AZUREML_MODEL_DIR"] == "/home/site/wwwroot/azureml-models"
    assert (made.path / "azureml-models/two/1/model.bin").read_bytes() == model.read_bytes()


def test_a_model_given_twice_is_refused(
    package: Package, tmp_path: Path, specification: Specification
) -> None:
    twice = (*specification.models, *specification.models)
    assert refused(package, tmp_path, models=twice) == "The model net:1 is given twice."


def test_changes_by_hand_are_kept_until_they_are_overwritten(
    package: Package, source: Path
) -> None:
    made = package().path
    with (made / "Dockerfile").open("a") as file:
        file.write("RUN echo by hand\n")
    (made / "host.json").unlink()
    (made / "notes.txt").write_text("mine")
    (source / "labels.txt").write_text("c\n")
    with pytest.raises(PackagingError) as error:
        package()
    assert str(error.value) == (
        f"{made} was changed after it was made: Dockerfile, host.json (missing), notes.txt (new). "
        "Name another output folder, or --overwrite it and lose the changes."
    )
    assert (made / "notes.txt").read_text() == "mine"
    package(overwrite=True)
    assert not (made / "notes.txt").exists()
    assert (made / "source/labels.txt").read_text() == "c\n"
